"""`ouroboros bench`."""

from __future__ import annotations

import asyncio
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import quantiles
from typing import TYPE_CHECKING

from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import Prompt, TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.training import TrainingProgress
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "bench"
HELP = "measure training, feedback and generation on this machine, one by one and together"
EXAMPLES = """\
  ouroboros bench
  ouroboros bench --model ./my-model --threads 4
  ouroboros bench --json > bench.json"""

ROWS, TOKENS = 8, 32
_EXAMPLES = [
    TrainingExample(f"Message {i}: my parcel has not arrived, where is it now?", "shipping")
    for i in range(16)
]
_ANSWERS = GenerationConfig(max_tokens=TOKENS, temperature=1.0, seed=0)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table."""

    what: str
    value: float
    unit: str


def add_arguments(parser: ArgumentParser) -> None:
    """This verb has no arguments."""


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    from ouroboros.stores.open import MEMORY

    async with open_engine(replace(settings, store=MEMORY)) as engine:
        with out.waiting(f"Loading {settings.model}"):
            base = (await engine.base()).unwrap()
        with out.waiting("Measuring, about a minute"):
            figures = await measure(engine)
    out.result(
        {"model": base.name, "figures": [asdict(f) for f in figures]},
        f"{base.name}: {base.architecture}, {base.parameters / 1e6:,.1f} million parameters.",
        "",
        out.table(("what", "measured", "unit"), [(f.what, f"{f.value:,.1f}", f.unit) for f in figures]),
    )


async def measure(engine: AdapterLearningEngine) -> list[Figure]:
    """Measures every figure on adapters in a store that is discarded afterwards."""
    names = [f"bench-{i}" for i in range(ROWS)]
    for name in names:
        (await engine.create_adapter(name)).unwrap()
    await generate_all(engine, [None])  # warm up: caches are filled at first use
    await measure_training(engine, names[-1:])
    return [
        Figure("training one adapter", await measure_training(engine, names[:1]), "tokens/s"),
        Figure(f"training {ROWS} adapters at once", await measure_training(engine, names), "tokens/s"),
        Figure("one correction, until it is served", await measure_correction(engine, names[1]), "ms"),
        *[
            Figure(
                f"generating, {ROWS} rows of {who}",
                await measure_generation(engine, adapters),
                "tokens/s",
            )
            for who, adapters in (
                ("the base", [None] * ROWS),
                ("one adapter", names[:1] * ROWS),
                (f"{ROWS} adapters", names),
            )
        ],
        *await measure_interference(engine, names),
    ]


async def measure_training(engine: AdapterLearningEngine, names: Sequence[str]) -> float:
    """Returns the tokens per second of all trainings together, by the time of the slowest."""
    progress: dict[str, TrainingProgress] = {}
    config = TrainingConfig(epochs=2)

    async def train(name: str) -> None:
        def remember(now: TrainingProgress) -> None:
            progress[name] = now

        (await engine.train_adapter(name, _EXAMPLES, config, on_progress=remember)).unwrap()

    await asyncio.gather(*(train(name) for name in names))
    return sum(p.tokens for p in progress.values()) / max(p.seconds for p in progress.values())


async def measure_correction(engine: AdapterLearningEngine, name: str) -> float:
    """Returns how long one correction takes, in milliseconds, after the answer was generated."""
    prompt = _EXAMPLES[0].input
    answer = (await engine.generate_with_adapter(prompt, name, GenerationConfig(max_tokens=8))).unwrap()
    started = time.perf_counter()
    signal = FeedbackSignal.user_correction("shipping")
    (await engine.learn_from_feedback(prompt, answer, signal, name)).unwrap()
    return 1000 * (time.perf_counter() - started)


async def measure_generation(engine: AdapterLearningEngine, adapters: Sequence[str | None]) -> float:
    """Returns how many tokens a second all these adapters generate together."""
    started = time.perf_counter()
    return await generate_all(engine, adapters) / (time.perf_counter() - started)


async def generate_all(engine: AdapterLearningEngine, adapters: Sequence[str | None]) -> int:
    """Sends all requests at once and returns the number of tokens generated."""
    results = await asyncio.gather(
        *(
            engine.generate_with_adapter(example.input, name, _ANSWERS)
            for example, name in zip(_EXAMPLES, adapters, strict=False)
        )
    )
    return sum(len(result.unwrap().tokens) for result in results)


async def measure_interference(engine: AdapterLearningEngine, names: Sequence[str]) -> list[Figure]:
    """Measures the gap between tokens, without training and while the last adapter trains."""
    gap_idle = await measure_token_gaps(engine, names)
    token = CancellationToken()
    rows = _EXAMPLES * 50
    training = asyncio.create_task(engine.train_adapter(names[-1], rows, cancel=token))
    gap_training = await measure_token_gaps(engine, names)
    token.cancel()
    await training
    return [
        Figure("gap between tokens, 95th percentile", gap_idle, "ms"),
        Figure("the same while an adapter trains", gap_training, "ms"),
    ]


async def measure_token_gaps(engine: AdapterLearningEngine, names: Sequence[str]) -> float:
    """Returns the 95th percentile of the pauses between two tokens of a stream, in milliseconds."""
    gaps: list[float] = []

    async def read(prompt: Prompt, name: str) -> None:
        last = 0.0
        config = replace(_ANSWERS, max_tokens=2 * TOKENS)
        async for piece in engine.stream_with_adapter(prompt, name, config):
            piece.unwrap()
            now = time.perf_counter()
            if last:
                gaps.append(1000 * (now - last))
            last = now

    await asyncio.gather(*(read(e.input, n) for e, n in zip(_EXAMPLES, names, strict=False)))
    return quantiles(gaps or [0.0], n=20, method="inclusive")[-1] if len(gaps) > 1 else 0.0
