"""Attention within the sequences of a packed row, and only there.

PyTorch's attention over a packed row [1, T] costs T^2 however many sequences share it, and its bfloat16
backward pass on a CPU is slow: 7 ms for four sequences of 67 tokens, where the plain matrix products
below, on the sequences side by side, take 1.4 ms. Everywhere else the standard implementation answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

_NAME = "ouroboros_packed"

PackedKeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values [1, K, T, D] of a packed row, layer after layer."""


@dataclass(frozen=True)
class PackedRowLayout:
    """How N sequences of at most W tokens lie in a packed row of T tokens; P = N W places.

    side_by_side [P]  the row's token at each of the P = N W places; any, past a sequence's end.
    in_row [T]        the place of each token of the row.
    """

    side_by_side: Int[Tensor, "P"]
    in_row: Int[Tensor, "T"]
    width: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> "PackedRowLayout | None":
        """The packing of sequences of these lengths; None where one row of T^2 costs less than N W^2."""
        width, total = max(lengths), sum(lengths)
        if device.type != "cpu" or len(lengths) == 1 or len(lengths) * width**2 >= total**2:
            return None
        start, places, tokens = 0, [], []
        for i, length in enumerate(lengths):
            places.append(torch.arange(i * width, i * width + length))
            tokens.append(torch.arange(start, start + width).clamp(max=start + length - 1))
            start += length
        return cls(torch.cat(tokens), torch.cat(places), width)


def install_packed_attention(model: PreTrainedModel) -> None:
    """Make a model that uses PyTorch's attention understand `packing=` in its forward pass."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def has_packed_attention(model: PreTrainedModel) -> bool:
    """Whether the model takes `packing=`."""
    return model.config._attn_implementation == _NAME


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B K S D"],
    value: Float[Tensor, "B K S D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: PackedRowLayout | None = None,
    keys_values: PackedKeysValues | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Causal softmax(Q K^T scaling) V. H query heads share K key heads in groups of G = H / K.

    Given `keys_values`, the layer's keys and values are added to it.
    """
    if keys_values is not None:
        keys_values.append((key, value))
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )  # type: ignore[return-value]
    heads, key_heads, depth = query.shape[1], key.shape[1], query.shape[3]
    groups, width = heads // key_heads, packing.width
    scale = depth**-0.5 if scaling is None else scaling

    def spread(x: Tensor) -> Tensor:  # [1, h, T, D] -> [h, N, W, D]
        return x[0].index_select(1, packing.side_by_side).unflatten(1, (-1, width))

    # Query heads that share a key head are stacked along the token axis: [K, N, G*W, D].
    q = spread(query * scale).unflatten(0, (key_heads, groups)).transpose(1, 2).flatten(2, 3)
    k, v = spread(key), spread(value)
    bias = _causal(width, sliding_window, q).repeat(groups, 1)
    weights = (q @ k.transpose(-1, -2) + bias).softmax(-1, dtype=torch.float32).to(q.dtype)
    out = (weights @ v).unflatten(2, (groups, width)).transpose(1, 2)  # [K, G, N, W, D]
    return out.reshape(heads, -1, depth)[:, packing.in_row].transpose(0, 1)[None].contiguous(), None


def _causal(width: int, window: int | None, like: Tensor) -> Float[Tensor, "W W"]:
    """0 where a token may look, -inf where not: ahead, or further back than a sliding window."""
    ones = torch.ones(width, width, dtype=torch.bool)
    allowed = ones.tril() if window is None else ones.tril().triu(1 - window)
    return torch.zeros(width, width, dtype=like.dtype).masked_fill(~allowed, float("-inf"))
