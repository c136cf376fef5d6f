"""Predict the memory that work on a base takes from its shape, and size training passes to fit."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ouroboros.backend.local.runtime.memory import format_bytes, require_memory
from ouroboros.domain.base_model import BaseModel

_SAVED_FACTOR = {True: 1.25, False: 2.0}
"""Activations saved for the backward pass, as a multiple of the linear layers' inputs and outputs:
norms, attention and the gate come on top. True: passes of `decoder`; False: autograd on the modules."""

_LOGITS_BYTES = 5 * 4
"""Bytes per token and vocabulary entry: the logits, and their logarithms in float32."""

_TRAINED_LOGITS = 3
"""Numbers in the model's dtype per token and vocabulary entry where an output is trained: the logits,
their gradient, and a block of them in float32."""

_ADAPTER_STATE_BYTES = 6 * 4
"""Bytes per weight of an adapter in training: the weight, its gradient, two tensors of the optimizer or
of the search, and copies in the model's dtype."""

_LIVE_LAYER_FACTORS = (2, 6)
"""The layer in its backward pass needs these multiples of its activations and attention weights."""

SHORT_PASS_TOKENS = 256
"""Layers are recomputed in the backward pass before passes become shorter than this."""


PASS_BYTES = 384 << 20
"""A training pass on a CPU takes about as much at most, or half of what the base takes if that is more:
longer passes are hardly faster there."""


@dataclass(frozen=True)
class MemoryCosts:
    """What work on a base takes of memory, in bytes.

    layers          number of layers of the base.
    saved           per layer and token of a training pass: activations saved for the backward pass.
    recomputed      the same where the layer is recomputed in the backward pass; None where it cannot be.
    attention       per layer, token, and token it attends to: attention weights, which are saved too.
    fused_from      sequences with more tokens than this save no attention weights; None if all do.
    logits          per token whose logits are asked.
    trained_logits  per token of an output in a training pass.
    keys_values     per token of a prompt and its answer, over all layers.
    """

    layers: int
    saved: int
    recomputed: int | None
    attention: int
    fused_from: int | None
    logits: int
    trained_logits: int
    keys_values: int

    @classmethod
    def estimate(
        cls, base: BaseModel, config: Any, itemsize: int, fused_from: int | None
    ) -> "MemoryCosts":
        """Estimate the costs from the shape of `base` and the text model's `config`.

        `itemsize` is that of the model's dtype; `fused_from` is None without our own `decoder`.
        """
        layers, uses_decoder = max(base.layers, 1), fused_from is not None
        depth = getattr(config, "head_dim", None) or base.width // base.heads
        key_heads = getattr(config, "num_key_value_heads", None) or base.heads
        activations = sum(s.inputs + s.outputs for s in base.linears) / layers
        return cls(
            layers=layers,
            saved=int(_SAVED_FACTOR[uses_decoder] * activations * itemsize),
            recomputed=(2 * base.width + base.heads * depth) * itemsize if uses_decoder else None,
            attention=base.heads * (itemsize if uses_decoder else itemsize + 4),
            fused_from=fused_from,
            logits=_LOGITS_BYTES * config.vocab_size,
            trained_logits=_TRAINED_LOGITS * itemsize * config.vocab_size,
            keys_values=2 * layers * key_heads * depth * itemsize,
        )

    def training_token_bytes(self, width: int, recompute: bool) -> int:
        """Bytes per token of a training pass over sequences of `width` tokens, without its logits."""
        is_fused = self.fused_from is not None and width > self.fused_from
        weights = 0 if is_fused else self.attention * width
        layer = self.recomputed if recompute and self.recomputed is not None else self.saved + weights
        return (
            self.layers * layer + _LIVE_LAYER_FACTORS[0] * self.saved + _LIVE_LAYER_FACTORS[1] * weights
        )

    def tokens_within(self, pass_bytes: int, width: int) -> int:
        """How many tokens, of sequences of `width`, a training pass of `pass_bytes` has room for."""
        return max(SHORT_PASS_TOKENS, pass_bytes // self.training_token_bytes(width, recompute=False))

    def inference_token_bytes(self) -> int:
        """Bytes per token of a pass without gradients that computes the token's logits."""
        return 2 * self.saved + self.logits

    def prefill_bytes(self, tokens: int) -> int:
        """Bytes of prefilling a prompt of `tokens` tokens, without its keys and values."""
        return 2 * tokens * self.saved + self.logits


@dataclass(frozen=True)
class MemoryPlan:
    """How a training splits its steps into passes.

    tokens_per_pass  at most, unless a single row has more.
    recompute        whether layers are recomputed in the backward pass, which saves few activations.
    predicted_bytes  memory at the peak.
    note             how the plan saves memory, in words; empty if it does not have to.
    first_layer      the layer at which passes start; what the base computes below it is cached.
    """

    tokens_per_pass: int
    recompute: bool
    predicted_bytes: int
    note: str = ""
    first_layer: int = 0


def plan_memory(
    costs: MemoryCosts,
    rows: Sequence[tuple[int, int, int]],
    weights: int,
    step_tokens: int,
    preferred: int,
    free_bytes: int | None,
) -> MemoryPlan:
    """Size training passes so that they take at most half of the free memory.

    rows         of each row: its tokens, the tokens of its longest sequence, its labelled tokens.
    weights      trainable numbers of the adapter.
    step_tokens  tokens of an optimizer step, at most.
    preferred    tokens per pass beyond which a longer pass is not faster.
    free_bytes   free memory of the device; None if it is unknown.

    If passes of `preferred` tokens do not fit, they become shorter; before they become very short,
    layers are recomputed in the backward pass. Raises `OutOfMemory` if the longest row by itself does
    not fit all of the free memory.
    """
    # 1. Bytes per token, in both ways of running the backward pass, and bytes that every pass needs.
    longest, width = max(r[0] for r in rows), max(r[1] for r in rows)
    label_bytes = int(costs.trained_logits * max(r[2] / r[0] for r in rows))
    state_bytes = weights * _ADAPTER_STATE_BYTES
    token_bytes = {
        recompute: label_bytes + costs.training_token_bytes(width, recompute)
        for recompute in (False, costs.recomputed is not None)
    }
    useful = min(preferred, step_tokens)

    # 2. The first way whose passes are long enough. Saving activations comes first: it is faster.
    for recompute, per_token in token_bytes.items():
        fitting = (free_bytes // 2 - state_bytes) // per_token if free_bytes is not None else 1 << 40
        if fitting >= max(longest, min(useful, SHORT_PASS_TOKENS)):
            tokens = min(preferred, fitting)
            peak = state_bytes + min(step_tokens, max(tokens, longest)) * per_token
            return _with_note(MemoryPlan(tokens, recompute, peak), useful, free_bytes)

    # 3. Neither is: one row per pass, in the most economical way, if all of the free memory holds it.
    recompute, per_token = list(token_bytes.items())[-1]
    peak = state_bytes + longest * per_token
    require_memory(
        f"Training on a row of {longest:,} tokens",
        peak,
        free_bytes,
        "Shorten the longest rows, use dtype bfloat16, close other programs, or take a smaller model.",
    )
    return _with_note(MemoryPlan(longest, recompute, peak), useful, free_bytes)


def _with_note(plan: MemoryPlan, useful: int, free_bytes: int | None) -> MemoryPlan:
    """The plan with a note on how it saves memory, if it has to."""
    measures = []
    if plan.tokens_per_pass < useful:
        measures.append(f"passes take {plan.tokens_per_pass:,} tokens at most instead of {useful:,}")
    if plan.recompute:
        measures.append("layers are computed twice, which takes half as long again")
    if not measures or free_bytes is None:
        return plan
    note = f"Memory is short, {format_bytes(free_bytes)} are free: {', and '.join(measures)}."
    return MemoryPlan(plan.tokens_per_pass, plan.recompute, plan.predicted_bytes, note)
