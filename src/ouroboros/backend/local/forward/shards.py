"""A pass over the base in shards: each thread runs its rows forward and back, with its own gradients."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.backend.local.runtime.threads import Threads
from ouroboros.lora.bank import BankedAdapter


class Shard(NamedTuple):
    """A part of a pass: `forward` computes its logits, which are these rows of the pass's [L, V]."""

    forward: Callable[[], Float[Tensor, "N V"]]
    rows: Int[Tensor, "N"]


def run_in_shards(
    threads: Threads, shards: Sequence[Shard], trained: Sequence[BankedAdapter]
) -> Float[Tensor, "L V"]:
    """The logits of all shards, each computed on a thread, in the order of the pass.

    Shard k runs under `adapter.shard(k)` of each adapter. The backward pass of the logits runs the
    shards' backward passes on threads too, and adds the gradients of `trained` together in the order of
    the shards, so the bits depend on the shards and not on which thread ends first.
    """
    factor = next((f for adapter in trained if (f := adapter.trained_factor) is not None), None)
    if factor is None:
        return _run_forward(threads, shards, record=False)[0]
    return _ShardedPass.apply(factor, threads, shards, trained)  # type: ignore[return-value]


def _run_forward(threads: Threads, shards: Sequence[Shard], record: bool) -> tuple[Tensor, list[Tensor]]:
    """The logits of the pass, and those of each shard with its graph if gradients are recorded."""

    def compute(shard: Shard) -> Tensor:
        with torch.set_grad_enabled(record):  # a setting of each thread
            return shard.forward()

    parts = threads.run_shards([partial(compute, shard) for shard in shards])
    logits = parts[0].new_empty(sum(map(len, parts)), parts[0].shape[1])
    for shard, part in zip(shards, parts, strict=True):
        logits.index_copy_(0, shard.rows, part.detach())
    return logits, parts


class _ShardedPass(torch.autograd.Function):
    """`run_in_shards` with its derivative. `factor` makes autograd ask for it."""

    @staticmethod
    def forward(
        ctx: Any,
        factor: Tensor,
        threads: Threads,
        shards: Sequence[Shard],
        trained: Sequence[BankedAdapter],
    ) -> Any:
        logits, ctx.parts = _run_forward(threads, shards, record=True)
        ctx.threads, ctx.shards, ctx.trained = threads, shards, trained
        return logits

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (d,) = grad_outputs

        def propagate(shard: Shard, part: Tensor) -> None:
            if part.requires_grad:  # not where all rows of the shard are the base's
                torch.autograd.backward(part, d.index_select(0, shard.rows))

        try:
            ctx.threads.run_shards(
                [partial(propagate, *pair) for pair in zip(ctx.shards, ctx.parts, strict=True)]
            )
        finally:
            for adapter in ctx.trained:
                adapter.gather_gradients()
        return None, None, None, None
