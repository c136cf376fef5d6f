"""Which sequences of a packed row attention takes side by side, and the way there and back."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ouroboros.lora.transfer import to_device

PAIRS_PER_GROUP = 32768
"""Pairs of tokens that a further group has to save: its calls cost as much."""


@dataclass(frozen=True)
class LengthGroup:
    """N sequences of at most W tokens, each laid at the start of W places.

    tokens [K]  their tokens in the packed row; places [K] where each stands among the P = N * W.
    source [N, W]  the row's token at each place; any, past a sequence's end.
    starts         each sequence's first token in the row.
    """

    tokens: Int[Tensor, "K"]
    places: Int[Tensor, "K"]
    source: Int[Tensor, "N W"]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, spans: Sequence[range], device: torch.device) -> "LengthGroup":
        width = max(map(len, spans))
        tokens = [torch.arange(s.start, s.stop) for s in spans]
        places = [torch.arange(len(s)) + i * width for i, s in enumerate(spans)]
        source = [torch.arange(s.start, s.start + width).clamp_(max=s.stop - 1) for s in spans]
        return cls(
            tokens=to_device(torch.cat(tokens), device),
            places=to_device(torch.cat(places), device),
            source=to_device(torch.stack(source), device),
            starts=tuple(s.start for s in spans),
        )

    def pad(self, x: Float[Tensor, "T H D"], key_heads: int) -> Float[Tensor, "M Q D"]:
        """Each token at its place: [key_heads * N, W * G, D], where G heads share a key head."""
        found = _by_head(x, key_heads).index_select(1, self.source.view(-1))
        return found.view(key_heads * len(self.source), -1, x.shape[2])

    def pad_zero(self, x: Float[Tensor, "T H D"], key_heads: int) -> Float[Tensor, "M Q D"]:
        """The same with zeros past each sequence's end, as a derivative has them."""
        own = _by_head(x, key_heads).index_select(1, self.tokens)
        found = own.new_zeros(key_heads, self.source.numel(), own.shape[2])
        found.index_copy_(1, self.places, own)
        return found.view(key_heads * len(self.source), -1, x.shape[2])

    def unpad(self, x: Float[Tensor, "M Q D"], key_heads: int) -> Float[Tensor, "K A"]:
        """The way back of both: one row per token."""
        by_token = x.view(key_heads, self.source.numel(), -1).transpose(0, 1)
        return by_token.index_select(0, self.places).flatten(1)


def _by_head(x: Float[Tensor, "T H D"], key_heads: int) -> Float[Tensor, "C T E"]:
    return x.reshape(len(x), key_heads, -1).transpose(0, 1)


def group_by_length(lengths: Sequence[int], device: torch.device) -> tuple[LengthGroup, ...]:
    """Sequences of these lengths lying end to end, in groups of like length.

    Places past a sequence's end cost pairs of tokens, and a further group costs calls.
    """
    ends = list(itertools.accumulate(lengths))
    spans = sorted((range(e - n, e) for n, e in zip(lengths, ends, strict=True)), key=len, reverse=True)
    groups: list[list[range]] = [[]]
    for i, span in enumerate(spans):
        group = groups[-1]
        if group and (len(spans) - i) * (len(group[0]) ** 2 - len(span) ** 2) > PAIRS_PER_GROUP:
            groups.append(group := [])
        group.append(span)
    return tuple(LengthGroup.of(sorted(g, key=lambda s: s.start), device) for g in groups)


def regroup(parts: Sequence[Tensor], groups: Sequence[LengthGroup], tokens: int) -> Float[Tensor, "T A"]:
    """The parts [K, A] of all groups as one row."""
    if len(parts) == 1:
        return parts[0]  # a single group has every token, in order
    found = parts[0].new_empty(tokens, parts[0].shape[1])
    for part, group in zip(parts, groups, strict=True):
        found.index_copy_(0, group.tokens, part)
    return found
