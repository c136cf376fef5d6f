"""W6: the time between tokens of eight streams, alone and while an adapter is trained.

The 95th percentile over all tokens but the first of each answer, in alternating rounds; and the speed of
the training meanwhile, compared with a training alone.
"""

import asyncio
import tempfile
from argparse import ArgumentParser, Namespace
from itertools import pairwise
from statistics import median, quantiles
from typing import Any

from benchmarks._serving import Clock, add_shape, build, prompts
from benchmarks.harness import Claim, Spread, fresh, ratios

ROWS = 8


def add_arguments(parser: ArgumentParser) -> None:
    add_shape(parser, "small")
    parser.add_argument("--tokens", type=int, default=100, help="of each answer")


def run(options: Namespace) -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder:
        fresh(build, folder=folder, shape="tiny" if options.quick else options.shape)()
        repeats = 1 if options.quick else options.repeats
        times = fresh(
            ours,
            folder=folder,
            tokens=options.tokens,
            repeats=repeats,
            targets=options.targets,
            processor=options.processor,
        )()
    rise = ratios(times["busy p95"], times["alone p95"])
    return [
        Claim("p95 between tokens, while training over alone", Spread.of(rise), at_most=1.3, unit="x"),
        *(Claim(name, Spread.of(times[name]), unit=" ms") for name in times if "tok/s" not in name),
        Claim("trained meanwhile", Spread.of(times["busy tok/s"]), unit=" tok/s"),
        Claim("trained alone", Spread.of(times["alone tok/s"]), unit=" tok/s"),
    ]


def ours(**work: Any) -> dict[str, Any]:
    return asyncio.run(_ours(**work))


async def _ours(folder: str, tokens: int, repeats: int, targets: str, processor: bool) -> dict[str, Any]:
    from ouroboros.backend.base import GenerateRequest, TrainJob
    from ouroboros.backend.local import LocalBackend
    from ouroboros.domain.cancel import CancellationToken
    from ouroboros.domain.config import AdapterConfig, TrainingConfig
    from ouroboros.domain.data import Row
    from ouroboros.domain.errors import Cancelled
    from ouroboros.domain.generation import GenerationConfig
    from ouroboros.domain.training import TrainingProgress

    # 1. A training that takes far longer than the answers.
    backend = LocalBackend.open(folder)
    adapter = AdapterConfig(target_modules=targets, max_steps=100_000)
    start = await backend.initialize(adapter, 0)
    digest = await backend.load(start)
    rows = tuple(Row(p, "shipping") for p in prompts(64, 24))
    job = TrainJob(start, adapter, TrainingConfig(batch_size=4, epochs=1000), rows)
    trained: list[TrainingProgress] = []

    async def write(prompt: str) -> list[float]:
        """Milliseconds from token to token, at the worker: a token need not have text to show."""
        times: list[float] = []
        config, clock = GenerationConfig(max_tokens=tokens), Clock(processor)
        request = GenerateRequest(prompt, config, digest)
        (seat,) = await backend._run_short(
            lambda: backend._submit_requests(
                [request], CancellationToken(), lambda _: times.append(1000 * clock())
            )
        )
        await asyncio.wrap_future(seat.future)
        return [b - a for a, b in pairwise(times)]

    async def answers() -> list[float]:
        generations = await asyncio.gather(*(write(p) for p in prompts(ROWS)))
        return [gap for gaps in generations for gap in gaps]

    async def with_training(meanwhile: Any) -> tuple[Any, float]:
        trained.clear()
        token, clock = CancellationToken(), Clock(processor)
        training = asyncio.create_task(backend.train(job, trained.append, token))
        result = await meanwhile
        rate = (trained[-1].tokens if trained else 0) / clock()
        token.cancel()
        await asyncio.gather(training, return_exceptions=True)
        assert isinstance(training.exception(), Cancelled)
        return result, rate

    # 2. In each repeat: answers alone, answers during the training, and the training alone.
    times: dict[str, list[float]] = {
        name: [] for name in (*_figures("alone", [1, 2]), *_figures("busy", [1, 2]), *_RATES)
    }
    await answers()
    for _ in range(repeats):
        alone = await answers()
        busy, meanwhile = await with_training(answers())
        _, by_itself = await with_training(asyncio.sleep(8.0))
        figures = _figures("alone", alone) | _figures("busy", busy)
        for name, value in (figures | dict(zip(_RATES, (meanwhile, by_itself), strict=True))).items():
            times[name].append(value)
    await backend.close()
    return times


_RATES = ("busy tok/s", "alone tok/s")


def _figures(name: str, gaps: list[float]) -> dict[str, float]:
    cut = quantiles(gaps, n=100)
    return {
        f"{name} p50": median(gaps),
        f"{name} p95": cut[94],
        f"{name} p99": cut[98],
        f"{name} most": max(gaps),
    }
