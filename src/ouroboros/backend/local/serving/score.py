"""Scores of given outputs under adapters: log-probabilities, greedy match, and drift from the base."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import kl_div

from ouroboros.backend.base import Score
from ouroboros.backend.local.forward.packing import compute_output_logits
from ouroboros.backend.local.forward.pass_tokens import split_into_passes
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.weights import LoraWeights, LowRank

MAX_CACHED_SEQUENCES = 64
"""Sequences whose base logits are cached, at most."""

MAX_CACHED_BYTES = 64 << 20
"""Bytes of base logits that are cached, at most. A token takes a whole vocabulary: 96 KiB on SmolLM2."""


@dataclass(frozen=True)
class ScoreItem:
    """A sequence, the adapter to run it under (None: the base), and whether to measure its drift."""

    sequence: TokenizedPair
    adapter: BankedAdapter | None
    drift: bool = False


def score_outputs(runtime: BaseRuntime, items: Sequence[ScoreItem]) -> Steps[Any, list[Score]]:
    """Score each item; yields after each forward pass.

    Greedy decoding gives exactly the output if and only if each of its tokens is the most likely one
    after those before it, so nothing has to be generated.
    """
    scores: list[Score] = []
    base_logits = yield from _compute_base_logits(
        runtime, list(dict.fromkeys(item.sequence for item in items if item.drift))
    )
    sequences, adapters = [item.sequence for item in items], [item.adapter for item in items]
    for run in split_into_passes(runtime, sequences, adapters):
        scores += _score_pass(runtime, [items[i] for i in run], base_logits)
        yield None
    return scores


def measure_strength(runtime: BaseRuntime, weights: LoraWeights) -> float:
    """Returns the Frobenius norm of all LoRA updates relative to that of the layers they change."""
    base = sum(map(runtime.squared_norm, weights))
    return math.sqrt(sum(map(_squared_norm, weights.values())) / max(base, 1e-12))


def _compute_base_logits(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair]
) -> Steps[Any, Mapping[TokenizedPair, Float[Tensor, "T V"]]]:
    """Compute the base's logits of each output; cached, since gates score the same probes repeatedly."""
    base_logits = {s: runtime.base_logits_cache[s] for s in sequences if s in runtime.base_logits_cache}
    uncached = [s for s in sequences if s not in base_logits]
    for run in split_into_passes(runtime, uncached, [None] * len(uncached)):
        chosen = [uncached[i] for i in run]
        with torch.no_grad():
            logits, _ = compute_output_logits(runtime, chosen, [None] * len(chosen))
        tables = logits.split([len(s.output) for s in chosen])
        base_logits |= {s: table.clone() for s, table in zip(chosen, tables, strict=True)}
        yield None
    _cache_base_logits(runtime, {s: base_logits[s] for s in uncached})
    return base_logits


def _cache_base_logits(runtime: BaseRuntime, logits: Mapping[TokenizedPair, Tensor]) -> None:
    """Add to the cache what it has room for; it starts over if it has no room for all of it."""
    cache = runtime.base_logits_cache
    total_bytes = sum(table.nbytes for table in (*cache.values(), *logits.values()))
    if len(cache) + len(logits) > MAX_CACHED_SEQUENCES or total_bytes > MAX_CACHED_BYTES:
        cache.clear()
    used_bytes = sum(table.nbytes for table in cache.values())
    for sequence, table in logits.items():
        used_bytes += table.nbytes
        if len(cache) == MAX_CACHED_SEQUENCES or used_bytes > MAX_CACHED_BYTES:
            return
        cache[sequence] = table


@torch.no_grad()
def _score_pass(
    runtime: BaseRuntime,
    items: Sequence[ScoreItem],
    base_logits: Mapping[TokenizedPair, Float[Tensor, "T V"]],
) -> list[Score]:
    logits, batch = compute_output_logits(
        runtime, [item.sequence for item in items], [item.adapter for item in items]
    )
    table = logits.float().log_softmax(-1)
    target_logprobs = iter(table.gather(1, batch.targets[:, None])[:, 0].tolist())
    likeliest = iter(table.argmax(-1).tolist())
    parts = zip(items, table.split([len(a.sequence.output) for a in items]), strict=True)
    drifts = [_compute_drift(part, base_logits[a.sequence]) for a, part in parts if a.drift]
    drift = iter(torch.stack(drifts).tolist() if drifts else [])
    return [
        Score(
            logprobs=tuple(islice(target_logprobs, len(a.sequence.output))),
            is_greedy=_is_greedy_output(
                list(islice(likeliest, len(a.sequence.output))), a, runtime.tokenizer.end_ids
            ),
            drift=next(drift) if a.drift else 0.0,
        )
        for a in items
    ]


def _is_greedy_output(likeliest: Sequence[int], item: ScoreItem, ends: frozenset[int]) -> bool:
    """Whether the most likely tokens are the output's; any end token counts as its last one."""
    output = item.sequence.output
    return likeliest[:-1] == list(output[:-1]) and likeliest[-1] in ends | {output[-1]}


def _compute_drift(table: Float[Tensor, "T V"], base: Float[Tensor, "T V"]) -> Float[Tensor, ""]:
    """Compute KL(base || adapter) in nats, mean over T positions.

    `table` has log-probabilities of the adapter, `base` the logits of the base.
    """
    known = base.float().log_softmax(-1)
    return kl_div(table, known, log_target=True, reduction="sum") / len(table)


def _squared_norm(low: LowRank) -> float:
    """Compute |scale B A|^2 from two R x R matrices, as trace((B^T B)(A A^T))."""
    inner = (low.b.T @ low.b) * (low.a @ low.a.T)
    return low.scale**2 * max(float(inner.double().sum()), 0.0)
