"""The arms: ways of learning a stream's tasks one after the other with one adapter.

An arm takes the stages and yields its weights after each. All start from the same factors and take the
same optimizer steps on the same rows in the same order.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.continual.model import Bench
from benchmarks.continual.streams import Stage
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.verdict import ExampleRef
from ouroboros.learning.replay.reservoir import Reservoir
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.weights import LoraWeights, LowRank

Arm: TypeAlias = Callable[[Bench, Sequence[Stage], "Dials"], Iterator[LoraWeights]]


@dataclass(frozen=True)
class Dials:
    """An arm's settings.

    seed       of the initial factors.
    kept       rows that a replay memory keeps, at most.
    ewc, olora  weights of their penalties: O-LoRA's as published, EWC's a usual one; neither was tuned.
    """

    seed: int = 0
    n_kept: int = 100
    ewc: float = 1e4
    olora: float = 0.5


def sequential(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """One stage after the other, nothing else."""
    weights = bench.fresh(dials.seed)
    for stage in stages:
        weights = bench.fit(weights, stage.train)
        yield weights


def replay(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """A balanced memory of earlier rows, of which some join every step."""
    weights, memory = bench.fresh(dials.seed), Reservoir(dials.n_kept)
    for number, stage in enumerate(stages):
        examples = [row.example for row in memory]
        weights = bench.fit(weights, stage.train, examples)
        for row, example in enumerate(stage.train):
            memory.put(ExampleRef(number, row), example)
        yield weights


def ewc(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """Elastic weight consolidation (arXiv 1612.00796), with one running sum of Fisher diagonals.

    Loss + ewc / 2 * sum F (w - w*)^2, w* the weights after the stage before (arXiv 1801.10112).
    """
    weights = bench.fresh(dials.seed)
    fisher: Float[Tensor, "P"] | None = None
    for stage in stages:
        anchor = bench.adapter(weights).master.clone()

        def pull(master: Tensor, gradient: Tensor, anchor=anchor, fisher=fisher) -> None:
            if fisher is not None:
                gradient += dials.ewc * fisher * (master - anchor)

        weights = bench.fit(weights, stage.train, change=pull)
        fisher = bench.fisher(weights, stage.train)
        fisher = fisher if fisher is None else fisher + fisher
        yield weights


def olora(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """O-LoRA (arXiv 2310.14152): a new pair for each task, its A kept orthogonal to those before it.

    All pairs lie stacked in one adapter; those of earlier tasks get no gradient. The penalty is
    olora * sum |A_new A_old^T|.
    """
    rank = bench.config.rank
    weights: LoraWeights = {}
    for number, stage in enumerate(stages):
        weights = stack_weights(weights, bench.fresh(dials.seed + number))
        layout = bench.adapter(weights)

        def separate(master: Tensor, gradient: Tensor, layout: BankedAdapter = layout) -> None:
            factors, gradients = layout.split_by_layer(master), layout.split_by_layer(gradient)
            for path, (a, _) in factors.items():
                into_a, into_b = gradients[path]
                into_a[:-rank], into_b[:-rank] = 0.0, 0.0
                if len(a) > rank:
                    overlap = a[-rank:] @ a[:-rank].T
                    into_a[-rank:] += dials.olora * overlap.sign() @ a[:-rank]

        weights = bench.fit(weights, stage.train, change=separate)
        yield weights


def slao(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """SLAO: each stage starts from an orthonormal A and the B before it; B is averaged over time.

    A_start = Q^T of A_before^T = Q R, signs so that R's diagonal is positive; served is
    (A_tuned, B_merged) with B_merged += (B_tuned - B_merged) / sqrt(i).
    """
    tuned = bench.fresh(dials.seed)
    merged: LoraWeights = {}
    for number, stage in enumerate(stages, start=1):
        start = tuned if number == 1 else {p: _orthonormal(low) for p, low in tuned.items()}
        tuned = bench.fit(start, stage.train)
        merged = {p: average_weights(merged.get(p), low, number) for p, low in tuned.items()}
        yield merged


def joint(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """All stages at once, for as many steps as the others take in all: what nobody can have."""
    rows = [example for stage in stages for example in stage.train]
    yield bench.fit(bench.fresh(dials.seed), rows)


def alone(bench: Bench, stages: Sequence[Stage], dials: Dials) -> Iterator[LoraWeights]:
    """A fresh adapter for each stage: what transfer is measured against."""
    for stage in stages:
        yield bench.fit(bench.fresh(dials.seed), stage.train)


PEERS: dict[str, Arm] = {
    "sequential": sequential,
    "EWC": ewc,
    "O-LoRA": olora,
    "SLAO": slao,
    "replay only": replay,
}


def rows_of(stages: Sequence[Stage]) -> list[TrainingExample]:
    return [example for stage in stages for example in stage.train]


def stack_weights(old: LoraWeights, new: LoraWeights) -> LoraWeights:
    stacked = {}
    for path, low in new.items():
        before = old.get(path)
        if before is not None:
            low = replace(low, a=torch.cat([before.a, low.a]), b=torch.cat([before.b, low.b], dim=1))
        stacked[path] = low
    return stacked


def _orthonormal(low: LowRank) -> LowRank:
    q, r = torch.linalg.qr(low.a.T)
    return replace(low, a=(q * r.diagonal().sign()).T.contiguous())


def average_weights(merged: LowRank | None, tuned: LowRank, number: int) -> LowRank:
    if merged is None:
        return tuned
    return replace(tuned, b=merged.b + (tuned.b - merged.b) / number**0.5)
