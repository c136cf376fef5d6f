"""Sequences of a packed row in groups of similar length, so that attention runs on few padded tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from ouroboros.lora.ragged import RaggedLayout

PAIRS_PER_GROUP = 32768
"""Pairs of tokens that one more group must save: its calls cost as much as that many pairs."""


@dataclass(frozen=True)
class LengthGroup:
    """N sequences that attention takes side by side, at most W tokens each.

    Heads that share a key head are neighbours: a token's row [H, D] is [kv_heads, G, D], and a padded
    tensor is [kv_heads * N, W * G, D], one matrix for each sequence and key head.
    """

    sequences: tuple[int, ...]
    layout: RaggedLayout

    def pad(self, x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "M Q D"]:
        """Each sequence from its first position on; any finite values past its end."""
        padded = self.layout.pad(_group_by_kv_head(x, kv_heads), 1)
        return padded.view(kv_heads * len(self.sequences), -1, x.shape[2])

    def pad_zero(self, x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "M Q D"]:
        """The same with zeros past each sequence's end, as a derivative needs them."""
        padded = self.layout.pad_zero(_group_by_kv_head(x, kv_heads), 1)
        return padded.view(kv_heads * len(self.sequences), -1, x.shape[2])

    def unpad(self, x: Float[Tensor, "M Q D"], kv_heads: int) -> Float[Tensor, "K A"]:
        """One row per token of the group, sequence after sequence; undoes both."""
        by_position = x.view(kv_heads, self.layout.source.numel(), -1).transpose(0, 1)
        return self.layout.unpad(by_position).flatten(1)


def _group_by_kv_head(x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "C T E"]:
    return x.reshape(len(x), kv_heads, -1).transpose(0, 1)


def group_by_length(lengths: Sequence[int], device: torch.device) -> tuple[LengthGroup, ...]:
    """Group sequences of these lengths, which lie end to end in a packed row.

    Padding costs pairs of tokens that attention computes for nothing; one more group costs calls.
    """
    spans = [range(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]
    longest_first = sorted(range(len(spans)), key=lambda i: lengths[i], reverse=True)
    groups: list[list[int]] = [[]]
    for done, i in enumerate(longest_first):
        group = groups[-1]
        # A group pads all to its first, longest sequence. A new one saves that for all still to come.
        remaining = len(spans) - done
        if group and remaining * (lengths[group[0]] ** 2 - lengths[i] ** 2) > PAIRS_PER_GROUP:
            groups.append(group := [])
        group.append(i)
    members = [tuple(sorted(group)) for group in groups]
    return tuple(LengthGroup(m, RaggedLayout.of([[spans[i]] for i in m], device)) for m in members)


def join_groups(
    parts: Sequence[Float[Tensor, "_ A"]], groups: Sequence[LengthGroup], tokens: int
) -> Float[Tensor, "T A"]:
    """The rows of each group's tokens as one packed row [T, A]."""
    if len(parts) == 1:
        return parts[0]  # a single group has every token, in order
    row = parts[0].new_empty(tokens, parts[0].shape[1])
    for part, group in zip(parts, groups, strict=True):
        row.index_copy_(0, group.layout.tokens, part)
    return row
