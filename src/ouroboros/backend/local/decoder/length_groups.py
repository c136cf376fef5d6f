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
    """N sequences that attention takes side by side: at most W tokens each, which attend to at most K.

    Heads that share a key head are neighbours: a token's row [H, D] is [kv_heads, G, D], and a padded
    tensor is [kv_heads * N, W * G, D], one matrix for each sequence and key head.

    queries  where the tokens of each sequence are.
    keys     the same behind the tokens of the sequences that it continues; `queries` itself where no
             sequence of the group continues another.
    offsets  how many tokens of other sequences each sequence continues.
    """

    sequences: tuple[int, ...]
    queries: RaggedLayout
    keys: RaggedLayout
    offsets: tuple[int, ...]

    def pad_queries(self, x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "M Q D"]:
        """Each sequence from its first position on; any finite values past its end."""
        return _pad(x, self.queries, kv_heads)

    def pad_keys(self, x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "M K D"]:
        """The same, each behind the sequences that it continues."""
        return _pad(x, self.keys, kv_heads)

    def pad_zero(self, x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "M Q D"]:
        """As `pad_queries` with zeros past each sequence's end, as a derivative needs them."""
        padded = self.queries.pad_zero(_group_by_kv_head(x, kv_heads), 1)
        return padded.view(kv_heads * len(self.sequences), -1, x.shape[2])

    def unpad_queries(self, x: Float[Tensor, "M Q D"], kv_heads: int) -> Float[Tensor, "N A"]:
        """One row per token of the group, sequence after sequence; undoes both."""
        return _unpad(x, self.queries, kv_heads)

    def unpad_keys(self, x: Float[Tensor, "M K D"], kv_heads: int) -> Float[Tensor, "N A"]:
        """One row for each use of a token as a key; undoes `pad_keys`."""
        return _unpad(x, self.keys, kv_heads)


def _pad(x: Float[Tensor, "T H D"], layout: RaggedLayout, kv_heads: int) -> Float[Tensor, "M Q D"]:
    padded = layout.pad(_group_by_kv_head(x, kv_heads), 1)
    return padded.view(kv_heads * len(layout.source), -1, x.shape[2])


def _unpad(x: Float[Tensor, "M Q D"], layout: RaggedLayout, kv_heads: int) -> Float[Tensor, "N A"]:
    by_position = x.view(kv_heads, layout.source.numel(), -1).transpose(0, 1)
    return layout.unpad(by_position).flatten(1)


def _group_by_kv_head(x: Float[Tensor, "T H D"], kv_heads: int) -> Float[Tensor, "C T E"]:
    return x.reshape(len(x), kv_heads, -1).transpose(0, 1)


def group_by_length(
    lengths: Sequence[int], device: torch.device, parents: Sequence[int | None] = ()
) -> tuple[LengthGroup, ...]:
    """Group sequences of these lengths, which lie end to end in a packed row.

    Sequence i continues sequence parents[i], an earlier one, where that is given. Padding costs pairs
    of tokens that attention computes for nothing; one more group costs calls.
    """
    # 1. Where the queries and keys of each sequence are in the packed row.
    spans = [range(end - n, end) for n, end in zip(lengths, accumulate(lengths), strict=True)]
    key_spans: list[list[range]] = []
    for span, parent in zip(spans, parents or [None] * len(spans), strict=True):
        key_spans.append([span] if parent is None else [*key_spans[parent], span])
    key_lengths = [sum(map(len, chain)) for chain in key_spans]

    # 2. A group pads all to its longest queries and keys. A new group pads what is still to come to
    #    the longest of these instead.
    most_pairs_first = sorted(range(len(spans)), key=lambda i: lengths[i] * key_lengths[i], reverse=True)
    remaining_pairs = _padded_pairs(most_pairs_first, lengths, key_lengths)
    groups: list[list[int]] = [[]]
    pairs_of_group = remaining_pairs[0]
    for done, (i, pairs) in enumerate(zip(most_pairs_first, remaining_pairs, strict=True)):
        if groups[-1] and (len(spans) - done) * (pairs_of_group - pairs) > PAIRS_PER_GROUP:
            groups.append([])
            pairs_of_group = pairs
        groups[-1].append(i)

    # 3. The index tensors of each group.
    result = []
    for members in map(sorted, groups):
        queries = RaggedLayout.of([[spans[i]] for i in members], device)
        offsets = tuple(key_lengths[i] - lengths[i] for i in members)
        keys = RaggedLayout.of([key_spans[i] for i in members], device) if any(offsets) else queries
        result.append(LengthGroup(tuple(members), queries, keys, offsets))
    return tuple(result)


def _padded_pairs(order: Sequence[int], lengths: Sequence[int], key_lengths: Sequence[int]) -> list[int]:
    """The pairs of tokens of each sequence from order[j] on, padded to the longest of all these."""
    longest_queries = accumulate((lengths[i] for i in reversed(order)), max)
    longest_keys = accumulate((key_lengths[i] for i in reversed(order)), max)
    return [q * k for q, k in zip(longest_queries, longest_keys, strict=True)][::-1]


def join_groups(
    parts: Sequence[Float[Tensor, "_ A"]], groups: Sequence[LengthGroup], tokens: int
) -> Float[Tensor, "T A"]:
    """The rows of each group's tokens as one packed row [T, A]."""
    if len(parts) == 1:
        return parts[0]  # a single group has every token, in order
    row = parts[0].new_empty(tokens, parts[0].shape[1])
    for part, group in zip(parts, groups, strict=True):
        row.index_copy_(0, group.queries.tokens, part)
    return row


def sum_key_groups(
    parts: Sequence[Float[Tensor, "_ A"]], groups: Sequence[LengthGroup], tokens: int
) -> Float[Tensor, "T A"]:
    """One packed row [T, A] with the sum, taken in float32, of the rows of each use as a key."""
    if all(group.keys is group.queries for group in groups):
        return join_groups(parts, groups, tokens)
    total = parts[0].new_zeros(tokens, parts[0].shape[1], dtype=torch.float32)
    for part, group in zip(parts, groups, strict=True):
        total.index_add_(0, group.keys.tokens, part.float())
    return total.to(parts[0].dtype)
