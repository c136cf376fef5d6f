"""Cached prefixes of a run's sequences: keys and values that were computed earlier."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.functional import causal_mask
from ouroboros.backend.local.decoder.length_groups import LengthGroup


@dataclass(frozen=True)
class PrefixBatch:
    """The prefixes of a group's N sequences side by side, padded on the left to P tokens.

    Each ends where the run's own tokens begin, so that one concatenation joins the two.

    keys_values  [L, 2, kv_heads * N, P, D]
    bias         added to the attention scores of the P + W keys: -inf at padding and ahead of a query.
    """

    keys_values: Float[Tensor, "L 2 M P D"]
    bias: Float[Tensor, "_ Q K"]

    @classmethod
    def of(
        cls, group: LengthGroup, prefixes: Sequence[PrefixKV | None], queries_per_key: int
    ) -> "PrefixBatch | None":
        """The prefixes of the group's sequences, None if it has none.

        Sequence i of the run continues after prefixes[i]. `queries_per_key` heads share a key head.
        """
        members = [prefixes[i] for i in group.sequences] if prefixes else []
        example = next((prefix for prefix in members if prefix is not None), None)
        if example is None:
            return None
        sizes = [0 if prefix is None else prefix.shape[3] for prefix in members]
        longest = max(sizes)
        layers, _, kv_heads, _, head_dim = example.shape
        keys_values = example.new_zeros(layers, 2, kv_heads, len(members), longest, head_dim)
        for i, (prefix, size) in enumerate(zip(members, sizes, strict=True)):
            if prefix is not None:
                keys_values[:, :, :, i, longest - size :] = prefix
        bias = _prefix_bias(sizes, group.layout.width, queries_per_key, keys_values)
        per_matrix = bias if len(bias) == 1 else bias.repeat(kv_heads, 1, 1)
        return cls(keys_values.flatten(2, 3), per_matrix)

    @property
    def tokens(self) -> int:
        """Tokens of the longest prefix, P."""
        return self.keys_values.shape[3]

    def prepend(
        self, layer: int, k: Float[Tensor, "M W D"], v: Float[Tensor, "M W D"]
    ) -> tuple[Float[Tensor, "M K D"], Float[Tensor, "M K D"]]:
        """One layer's keys and values: the prefixes', then the run's own."""
        keys, values = self.keys_values[layer]
        return torch.cat([keys, k], 1), torch.cat([values, v], 1)


def _prefix_bias(
    sizes: Sequence[int], width: int, queries_per_key: int, like: Tensor
) -> Float[Tensor, "_ Q K"]:
    """0 where a query may attend, else -inf; one table for all sequences if their sizes are equal."""
    longest = max(sizes)
    distinct = sizes if min(sizes) < longest else sizes[:1]
    bias = like.new_zeros(len(distinct), width * queries_per_key, longest + width)
    bias[:, :, longest:] = causal_mask(width, queries_per_key, like.dtype, like.device)
    for table, size in zip(bias, distinct, strict=True):
        table[:, : longest - size] = float("-inf")
    return bias
