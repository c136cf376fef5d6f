"""What an adapter makes of given outputs: their likelihood, whether it would say them, its drift."""

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
from ouroboros.backend.local.forward.prefix_reuse import count_pass_tokens, split_by_tokens
from ouroboros.backend.local.model.load import BaseRuntime
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime.worker import Steps
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.weights import LoraWeights, LowRank

KEPT = 64
"""Sequences of which what the base says is kept."""


@dataclass(frozen=True)
class ScoreItem:
    """A sequence, the adapter to run it under (None: the base), and whether its drift is asked."""

    sequence: TokenizedPair
    adapter: BankedAdapter | None
    drift: bool = False


def score_outputs(runtime: BaseRuntime, asked: Sequence[ScoreItem]) -> Steps[Any, list[Score]]:
    """One score for each; one step per forward pass.

    Greedy decoding says exactly the output if, and only if, each of its tokens is the likeliest after
    the ones before it: no token need be generated to know.
    """
    found: list[Score] = []
    base = yield from _read_base(runtime, list(dict.fromkeys(a.sequence for a in asked if a.drift)))
    tokens = count_pass_tokens(runtime, [a.sequence for a in asked], [a.adapter for a in asked])
    for run in split_by_tokens(tokens, runtime.token_budget):
        found += _score(runtime, [asked[i] for i in run], base)
        yield None
    return found


def measure_strength(runtime: BaseRuntime, weights: LoraWeights) -> float:
    """Frobenius norm of all updates over that of the layers they are added to."""
    base = sum(map(runtime.squared_norm, weights))
    return math.sqrt(sum(map(_energy, weights.values())) / max(base, 1e-12))


def _read_base(
    runtime: BaseRuntime, sequences: Sequence[TokenizedPair]
) -> Steps[Any, Mapping[TokenizedPair, Float[Tensor, "T V"]]]:
    """What the base says of each; it is kept, since a gate asks the same ones again and again."""
    known = {s: runtime.base_logits_cache[s] for s in sequences if s in runtime.base_logits_cache}
    unread = [s for s in sequences if s not in known]
    for run in split_by_tokens(list(map(len, unread)), runtime.token_budget):
        chosen = [unread[i] for i in run]
        with torch.no_grad():
            logits, _ = compute_output_logits(runtime, chosen, [None] * len(chosen))
        tables = logits.split([len(s.output) for s in chosen])
        known |= {s: table.clone() for s, table in zip(chosen, tables, strict=True)}
        yield None
    if len(runtime.base_logits_cache) + len(unread) > KEPT:
        runtime.base_logits_cache.clear()
    runtime.base_logits_cache.update({s: known[s] for s in unread[:KEPT]})
    return known


@torch.no_grad()
def _score(
    runtime: BaseRuntime, asked: Sequence[ScoreItem], base: Mapping[TokenizedPair, Float[Tensor, "T V"]]
) -> list[Score]:
    logits, batch = compute_output_logits(
        runtime, [a.sequence for a in asked], [a.adapter for a in asked]
    )
    table = logits.float().log_softmax(-1)
    own = iter(table.gather(1, batch.targets[:, None])[:, 0].tolist())
    likeliest = iter(table.argmax(-1).tolist())
    parts = zip(asked, table.split([len(a.sequence.output) for a in asked]), strict=True)
    drifts = [_drift(part, base[a.sequence]) for a, part in parts if a.drift]
    drift = iter(torch.stack(drifts).tolist() if drifts else [])
    return [
        Score(
            logprobs=tuple(islice(own, len(a.sequence.output))),
            is_greedy=_said(
                list(islice(likeliest, len(a.sequence.output))), a, runtime.tokenizer.end_ids
            ),
            drift=next(drift) if a.drift else 0.0,
        )
        for a in asked
    ]


def _said(likeliest: Sequence[int], asked: ScoreItem, ends: frozenset[int]) -> bool:
    """Whether the likeliest tokens are the output's; whatever ends an answer will do as its end."""
    output = asked.sequence.output
    return likeliest[:-1] == list(output[:-1]) and likeliest[-1] in ends | {output[-1]}


def _drift(table: Float[Tensor, "T V"], base: Float[Tensor, "T V"]) -> Float[Tensor, ""]:
    """KL(base || adapter) in nats, mean over T positions, of log-probabilities and the base's logits."""
    known = base.float().log_softmax(-1)
    return kl_div(table, known, log_target=True, reduction="sum") / len(table)


def _energy(low: LowRank) -> float:
    """|BA|^2, from two small matrices: trace((B^T B)(A A^T))."""
    inner = (low.b.T @ low.b) * (low.a @ low.a.T)
    return low.scale**2 * max(float(inner.double().sum()), 0.0)
