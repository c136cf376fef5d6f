"""What work on a base takes of memory, predicted from its shape, and how passes are cut to fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ouroboros.backend.local.runtime.memory import format_bytes, require_room
from ouroboros.domain.base_model import BaseModel

_KEPT = {True: 1.25, False: 2.0}
"""What a pass keeps over the sum of its linear layers' inputs and outputs: norms, attention, the gate.
True: our own passes (`decoder`); False: those of the model's modules, by automatic differentiation."""

_LABEL = 5 * 4
"""Bytes per token whose logits are asked, and vocabulary entry: these, and logarithms in float32."""

_LEARNED = 3
"""Of a token that is learned: its logits, their gradient, and a block of them in float32, in numbers of
the model's dtype."""

_STATE = 6 * 4
"""Bytes per weight of an adapter in training: the weight, its gradient, two tensors of the optimizer or
of the search, and copies in the model's dtype."""

_LIVE = (2, 6)
"""Of the layer that is gone back through: times what it keeps, and times its weights of attention."""

SHORT = 256
"""Rather than in passes shorter than this, layers are computed again on the way back."""


@dataclass(frozen=True)
class MemoryCosts:
    """Bytes.

    layers     of the base.
    kept       per layer and token of a training pass: what the way back wants.
    again      the same where a layer is computed again on the way back; None where it cannot be.
    attention  per layer, token, and token that it looks at: weights of attention, kept too.
    fused      no such weights are kept of sequences with more tokens than this; None where they are.
    label      per token whose logits are asked.
    learned    the same for a token of an output in a training pass.
    cache      per token of an answer and its prompt: keys and values of all layers.
    """

    layers: int
    kept: int
    again: int | None
    attention: int
    fused: int | None
    label: int
    learned: int
    cache: int

    @classmethod
    def of(cls, base: BaseModel, config: Any, itemsize: int, fused: int | None) -> "MemoryCosts":
        """`config` is the text model's; `fused` is None where `decoder` does not run the passes."""
        layers, own_passes = max(base.layers, 1), fused is not None
        depth = getattr(config, "head_dim", None) or base.width // base.heads
        key_heads = getattr(config, "num_key_value_heads", None) or base.heads
        seen = sum(s.inputs + s.outputs for s in base.linears) / layers
        return cls(
            layers=layers,
            kept=int(_KEPT[own_passes] * seen * itemsize),
            again=(2 * base.width + base.heads * depth) * itemsize if own_passes else None,
            attention=base.heads * (itemsize if own_passes else itemsize + 4),
            fused=fused,
            label=_LABEL * config.vocab_size,
            learned=_LEARNED * itemsize * config.vocab_size,
            cache=2 * layers * key_heads * depth * itemsize,
        )

    def training(self, width: int, again: bool) -> int:
        """Per token of a pass over sequences of `width` tokens, besides its labels."""
        flat = self.fused is not None and width > self.fused
        weights = 0 if flat else self.attention * width
        layer = self.again if again and self.again is not None else self.kept + weights
        return self.layers * layer + _LIVE[0] * self.kept + _LIVE[1] * weights

    def reading(self) -> int:
        """Per token of a pass without gradients that asks for its logits."""
        return 2 * self.kept + self.label

    def prompt(self, tokens: int) -> int:
        """Of a prompt being run, besides its keys and values."""
        return 2 * tokens * self.kept + self.label


@dataclass(frozen=True)
class MemoryPlan:
    """How a training's passes are cut.

    tokens     of a pass at most, unless a single row has more.
    again      whether its layers are computed again on the way back, so that little is kept.
    predicted  bytes at the peak.
    note       what is done for want of memory, in words; empty if nothing is.
    start      the layer that passes start at: what the base makes of the rows below it is kept.
    """

    tokens: int
    again: bool
    predicted: int
    note: str = ""
    start: int = 0


def plan_memory(
    costs: MemoryCosts,
    rows: Sequence[tuple[int, int, int]],
    weights: int,
    step: int,
    wanted: int,
    free: int | None,
) -> MemoryPlan:
    """Passes that half of the free memory holds.

    `rows` are (tokens, tokens of the longest sequence, labelled tokens), `weights` are the numbers that
    learn. An optimizer step has `step` tokens at most; `wanted` tokens a pass are as many as help. If
    they do not fit, passes become shorter; if they would become very short, layers are computed again on
    the way back. Raises `OutOfMemory` if the longest row by itself does not fit all of the free memory.
    """
    longest, width = max(r[0] for r in rows), max(r[1] for r in rows)
    labels, state = int(costs.learned * max(r[2] / r[0] for r in rows)), weights * _STATE
    ways = {again: labels + costs.training(width, again) for again in (False, costs.again is not None)}
    for again, each in ways.items():
        fitting = (free // 2 - state) // each if free is not None else 1 << 40
        if fitting >= max(longest, min(wanted, step, SHORT)):
            tokens = min(wanted, fitting)
            peak = state + min(step, max(tokens, longest)) * each
            return _told(MemoryPlan(tokens, again, peak), min(wanted, step), free)
    again, each = list(ways.items())[-1]
    needed = state + longest * each
    require_room(
        f"Training on a row of {longest:,} tokens",
        needed,
        free,
        "Shorten the longest rows, use dtype bfloat16, close other programs, or take a smaller model.",
    )
    return _told(MemoryPlan(longest, again, needed), min(wanted, step), free)


def _told(found: MemoryPlan, wanted: int, free: int | None) -> MemoryPlan:
    """A plan with what it does for want of memory."""
    done = [f"passes take {found.tokens:,} tokens at most instead of {wanted:,}"]
    done = done if found.tokens < wanted else []
    done += ["layers are computed twice, which takes half as long again"] if found.again else []
    if not done or free is None:
        return found
    note = f"Memory is short, {format_bytes(free)} are free: {', and '.join(done)}."
    return MemoryPlan(found.tokens, found.again, found.predicted, note)
