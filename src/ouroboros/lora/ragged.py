"""Sequences of unequal length, flat end to end or padded side by side, and the way between the two.

Attention and the products of many adapters both want one batched product over sequences whose lengths
differ. The flat axis [T] holds the tokens of a packed row; the padded axis [P] holds N sequences of W
positions each, P = N * W.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ouroboros.lora.transfer import to_device


@dataclass(frozen=True)
class RaggedLayout:
    """Where the K tokens of N sequences are on the flat axis and on the padded one.

    tokens     [K] index of each token on the flat axis, sequence after sequence.
    positions  [K] index of each of them on the padded axis.
    source     [N W] index on the flat axis of what each padded position holds: past a sequence's end,
               its last token again, so that every value there is finite.
    """

    tokens: Int[Tensor, "K"]
    positions: Int[Tensor, "K"]
    source: Int[Tensor, "N W"]

    @classmethod
    def of(cls, sequences: Sequence[Sequence[range]], device: torch.device) -> "RaggedLayout":
        """The layout of sequences, each given as one or more spans of the flat axis.

        The indices are computed on the CPU and sent in three copies, without waiting for the device.
        """
        tokens = [torch.cat([torch.arange(s.start, s.stop) for s in spans]) for spans in sequences]
        width = max(map(len, tokens))
        offsets = torch.arange(width)
        positions = [offsets[: len(t)] + i * width for i, t in enumerate(tokens)]
        source = [t[offsets.clamp(max=len(t) - 1)] for t in tokens]
        return cls(
            tokens=to_device(torch.cat(tokens), device),
            positions=to_device(torch.cat(positions), device),
            source=to_device(torch.stack(source), device),
        )

    @property
    def width(self) -> int:
        """Positions of each sequence, W: the length of the longest."""
        return self.source.shape[1]

    def pad(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return x with its flat axis `dim` [T] as the padded axis [P]."""
        return x.index_select(dim, self.source.view(-1))

    def pad_zero(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return the same with zeros past each sequence's end, as a derivative needs them."""
        tokens = x.index_select(dim, self.tokens)
        shape = [*tokens.shape[:dim], self.source.numel(), *tokens.shape[dim + 1 :]]
        return tokens.new_zeros(shape).index_copy_(dim, self.positions, tokens)

    def unpad(self, x: Tensor, dim: int = 0) -> Tensor:
        """Return x with its padded axis `dim` [P] as one entry per token [K]; undoes both."""
        return x.index_select(dim, self.positions)
