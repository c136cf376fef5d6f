"""Held-out rows answered exactly, by adapters of either kind."""

import sys
from pathlib import Path
from statistics import fmean

from benchmarks.harness import Claim, Spread
from ouroboros.backend.base import Backend, ScoreRequest, TrainJob
from ouroboros.data.examples import read_examples
from ouroboros.domain.config import ALL, ANSWER, AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row

DATA = Path(__file__).parents[2] / "examples" / "data"
TASKS = ("tickets", "commands", "reviews")


async def claims(model: str, seeds: int, quick: bool) -> list[Claim]:
    from ouroboros.backend.local import LocalBackend

    backend = LocalBackend.open(model)
    measured: list[Claim] = []
    for task in TASKS:
        kinds = {}
        for acts_on in (ALL, ANSWER):
            runs = [await _accuracy(backend, task, acts_on, seed, quick) for seed in range(seeds)]
            print(f"  {task}, {acts_on}: {runs}", file=sys.stderr, flush=True)
            kinds[acts_on] = Spread.of([100 * right for right in runs])
        measured += [
            Claim(f"{task}: held-out rows answered right, ordinary", kinds[ALL], unit="%"),
            Claim(f"{task}: the same, answer-only", kinds[ANSWER], unit="%"),
        ]
    await backend.close()
    return measured


async def _accuracy(backend: Backend, task: str, acts_on: str, seed: int, quick: bool) -> float:
    train, heldout = (read_examples(DATA / task / f"{part}.jsonl") for part in ("train", "heldout"))
    config = AdapterConfig.auto(await backend.base(), acts_on=acts_on)
    training = TrainingConfig.auto(len(train), seed=seed)
    rows = tuple(map(Row.from_example, train[:8] if quick else train))
    job = TrainJob(await backend.initialize(config, seed), config, training, rows)
    digest = await backend.load((await backend.train(job)).files)
    requests = [ScoreRequest(e.input, e.output, digest) for e in heldout]
    return fmean(s.is_greedy for s in await backend.score(requests))
