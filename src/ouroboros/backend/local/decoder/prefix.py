"""What stands before the tokens of a run: keys and values that were computed earlier."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.backend.local.cache.prefix_cache import PrefixKV
from ouroboros.backend.local.decoder.functional import causal_mask
from ouroboros.backend.local.decoder.length_groups import LengthGroup


@dataclass(frozen=True)
class PrefixBatch:
    """The beginnings of a group's N sequences, side by side, each ending where its own tokens begin.

    states [L, 2, H * N, P, D]; `bias` is what `attend` adds to the scores of P + W keys.
    """

    states: Float[Tensor, "L 2 M P D"]
    bias: Float[Tensor, "_ Q K"]

    @classmethod
    def of(
        cls, group: LengthGroup, lengths: Sequence[int], begun: Sequence[PrefixKV | None], share: int
    ) -> "PrefixBatch | None":
        """For sequences of these lengths, of which begun[i] was read; `share` queries share a key."""
        starts = [0, *accumulate(lengths)]
        own = [begun[starts.index(s)] for s in group.starts] if begun else []
        there = [b for b in own if b is not None]
        if not there:
            return None
        sizes = [0 if b is None else b.shape[3] for b in own]
        layers, _, heads, _, depth = there[0].shape
        states = there[0].new_zeros(layers, 2, heads, len(own), max(sizes), depth)
        for i, (b, size) in enumerate(zip(own, sizes, strict=True)):
            if b is not None:
                states[:, :, :, i, max(sizes) - size :] = b
        bias = _bias(sizes, group.source.shape[1], share, states)
        return cls(states.flatten(2, 3), bias if len(bias) == 1 else bias.repeat(heads, 1, 1))

    @property
    def tokens(self) -> int:
        return self.states.shape[3]

    def join(
        self, layer: int, k: Float[Tensor, "M W D"], v: Float[Tensor, "M W D"]
    ) -> tuple[Float[Tensor, "M K D"], Float[Tensor, "M K D"]]:
        """One layer's keys and values, the group's own behind."""
        keys, values = self.states[layer]
        return torch.cat([keys, k], 1), torch.cat([values, v], 1)


def _bias(sizes: Sequence[int], width: int, share: int, like: Tensor) -> Float[Tensor, "_ Q K"]:
    """0 where a query may look, else -inf; one table for all sequences if their sizes are equal."""
    most = max(sizes)
    rows = sizes if min(sizes) < most else sizes[:1]
    bias = like.new_zeros(len(rows), width * share, most + width)
    bias[:, :, most:] = causal_mask(width, share, like.dtype, like.device)
    for row, size in zip(bias, rows, strict=True):
        row[:, : most - size] = float("-inf")
    return bias
