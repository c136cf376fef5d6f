"""Attention within each sequence of a packed row, for models that run by their own forward pass.

PyTorch's attention over a packed row [1, T] costs T^2 however many sequences share it, and its bfloat16
backward pass on a CPU is slow: 7 ms for four sequences of 67 tokens. The plain matrix products below, on
the sequences side by side, take 1.4 ms. Where no `packing` is given, PyTorch's implementation runs.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ouroboros.lora.ragged import RaggedLayout

_NAME = "ouroboros_packed"

PackedKeysValues = list[tuple[Tensor, Tensor]]
"""Keys and values [1, K, T, D] of a packed row, layer by layer."""


def choose_packed_layout(lengths: Sequence[int], device: torch.device) -> RaggedLayout | None:
    """The layout of N sequences of at most W tokens side by side, for attention within a packed row.

    None where it does not pay: for one sequence, where one row of T^2 costs less than N W^2, and on an
    accelerator, whose fused kernels take the packed row.
    """
    width, total = max(lengths), sum(lengths)
    if device.type != "cpu" or len(lengths) == 1 or len(lengths) * width**2 >= total**2:
        return None
    ends = accumulate(lengths)
    return RaggedLayout.of([[range(e - n, e)] for n, e in zip(lengths, ends, strict=True)], device)


def install_packed_attention(model: PreTrainedModel) -> None:
    """Make a model that uses PyTorch's attention accept `packing=` in its forward pass."""
    if model.config._attn_implementation == "sdpa":
        AttentionInterface.register(_NAME, packed_attention)
        AttentionMaskInterface.register(_NAME, sdpa_mask)
        model.set_attn_implementation(_NAME)


def has_packed_attention(model: PreTrainedModel) -> bool:
    """Whether the model accepts `packing=`."""
    return model.config._attn_implementation == _NAME


def packed_attention(
    module: nn.Module,
    query: Float[Tensor, "B H T D"],
    key: Float[Tensor, "B K S D"],
    value: Float[Tensor, "B K S D"],
    attention_mask: Tensor | None,
    scaling: float | None = None,
    packing: RaggedLayout | None = None,
    keys_values: PackedKeysValues | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "B T H D"], None]:
    """Causal softmax(Q K^T scaling) V; H query heads share K key heads in groups of G = H / K.

    With a `packing` each token attends within its own sequence only. The layer's keys and values are
    appended to `keys_values`, where that is given.
    """
    if keys_values is not None:
        keys_values.append((key, value))
    if packing is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )  # type: ignore[return-value]
    heads, kv_heads, head_dim = query.shape[1], key.shape[1], query.shape[3]
    groups, width = heads // kv_heads, packing.width
    scale = head_dim**-0.5 if scaling is None else scaling

    def pad(x: Tensor) -> Tensor:  # [1, h, T, D] -> [h, N, W, D]
        return packing.pad(x[0], 1).unflatten(1, (-1, width))

    # Query heads that share a key head are stacked along the token axis: [K, N, G*W, D].
    q = pad(query * scale).unflatten(0, (kv_heads, groups)).transpose(1, 2).flatten(2, 3)
    k, v = pad(key), pad(value)
    bias = _causal_bias(width, sliding_window, q).repeat(groups, 1)
    weights = (q @ k.transpose(-1, -2) + bias).softmax(-1, dtype=torch.float32).to(q.dtype)
    out = (weights @ v).unflatten(2, (groups, width)).transpose(1, 2)  # [K, G, N, W, D]
    by_token = packing.unpad(out.reshape(heads, -1, head_dim), 1)
    return by_token.transpose(0, 1)[None].contiguous(), None


def _causal_bias(width: int, window: int | None, like: Tensor) -> Float[Tensor, "W W"]:
    """0 where a token may attend, -inf ahead of it and further back than a sliding window."""
    ones = torch.ones(width, width, dtype=torch.bool)
    allowed = ones.tril() if window is None else ones.tril().triu(1 - window)
    return torch.zeros(width, width, dtype=like.dtype).masked_fill(~allowed, float("-inf"))
