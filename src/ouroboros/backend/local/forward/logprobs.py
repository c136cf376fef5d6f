"""Log-probabilities from a table of logits, with a backward pass that needs little memory.

With a vocabulary of 150,000 tokens the table [L, V] is the largest tensor of a pass, and automatic
differentiation of its log-softmax makes four float32 copies. Here it stays in the model's dtype and is
processed in blocks that fit into the CPU's cache.
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

BLOCK_LOGITS = 1 << 20
"""Logits per block."""


def gather_logprobs(table: Float[Tensor, "L V"], targets: Int[Tensor, "L"]) -> Float[Tensor, "L"]:
    """Returns the log-probability of each row's target, in nats, in float32."""
    picked, norm, _ = gather_logits_lse(table, targets[:, None])
    return picked[:, 0] - norm


def gather_logits_lse(
    table: Float[Tensor, "L V"], ids: Int[Tensor, "L J"], exclude: Int[Tensor, "L"] | None = None
) -> tuple[Float[Tensor, "L J"], Float[Tensor, "L"], Float[Tensor, "L"]]:
    """Returns the logits of `ids`, and the log-sum-exp of each row twice, all in float32.

    The second log-sum-exp leaves out the row's token in `exclude`, unless that is negative.
    """
    return _GatherLogitsLse.apply(table, ids, exclude)  # type: ignore[return-value]


class _GatherLogitsLse(torch.autograd.Function):
    """`gather_logits_lse` with its derivative."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, excluded: Tensor | None) -> Any:
        norm = torch.cat([x.logsumexp(1) for _, x in _float32_blocks(table)])
        norm_without = norm.clone()
        if excluded is not None:
            norm_without = torch.cat(
                [_mask_excluded(x, excluded[rows]).logsumexp(1) for rows, x in _float32_blocks(table)]
            )
        ctx.save_for_backward(table, ids, excluded, norm, norm_without)
        return table.gather(1, ids).float(), norm, norm_without

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        table, ids, excluded, norm, norm_without = ctx.saved_tensors
        d_picked, d_norm, d_norm_without = grad_outputs
        d_norm = d_norm + d_norm_without if excluded is None else d_norm
        d_table = torch.empty_like(table)
        for rows, x in _float32_blocks(table):
            d = (x - norm[rows, None]).exp_().mul_(d_norm[rows, None])
            if excluded is not None:
                probs_without = _mask_excluded(x, excluded[rows]).sub_(norm_without[rows, None]).exp_()
                d.addcmul_(probs_without, d_norm_without[rows, None])
            d_table[rows] = d.scatter_add_(1, ids[rows], d_picked[rows])
        return d_table, None, None


def _float32_blocks(table: Float[Tensor, "L V"]) -> Iterator[tuple[slice, Float[Tensor, "N V"]]]:
    """Yields the table in blocks of rows, in float32."""
    size = max(1, BLOCK_LOGITS // table.shape[1])
    for start in range(0, len(table), size):
        rows = slice(start, start + size)
        yield rows, table[rows].float()


def _mask_excluded(x: Float[Tensor, "N V"], excluded: Int[Tensor, "N"]) -> Float[Tensor, "N V"]:
    """Returns the rows with the excluded token of each, if it has one, at minus infinity."""
    at = excluded.clamp(min=0)[:, None]
    return x.scatter(1, at, x.gather(1, at).masked_fill(excluded[:, None] >= 0, -torch.inf))
