"""Our arms: the adapters as files, before and after."""

import asyncio
from pathlib import Path
from typing import Any

from benchmarks.harness import Times
from benchmarks.w3.work import ALPHA, RANK, RATE, WARM, end_of, rows, start_of


def begin(model: str, work: str, count: int) -> dict[str, Any]:
    """Write the adapters that all arms start from: of each kind, one step from zero, in float32."""
    from ouroboros.backend.local import LocalBackend

    asyncio.run(_begin(LocalBackend.open(model), work, count))
    return {}


async def _begin(backend: Any, work: str, count: int) -> None:
    for acts_on in ("all", "answer"):
        for number, row in enumerate(rows(count, seed=2)):
            start = await backend.initialize(_config(acts_on), number)
            outcome = await backend.train(_job(start, acts_on, [row]))
            _write(start_of(work, acts_on, number), outcome.files)
    await backend.close()


def ours(
    model: str, work: str, count: int, name: str, acts_on: str, keep_prefix: bool, at_once: bool
) -> dict[str, Any]:
    """What all updates take, after five times as many on other rows, which warm up.

    If prompts are to be `keep_prefix`, another adapter has read them before.
    """
    from ouroboros.backend.local import LocalBackend

    return {
        "times": asyncio.run(
            _ours(LocalBackend.open(model), work, count, name, acts_on, keep_prefix, at_once)
        )
    }


async def _ours(
    backend: Any, work: str, count: int, name: str, acts_on: str, keep_prefix: bool, at_once: bool
) -> Times:
    starts = [_read(start_of(work, acts_on, number)) for number in range(count)]
    learned = rows(count)
    jobs, *warm = (
        [_job(start, acts_on, [row]) for start, row in zip(starts, chosen, strict=True)]
        for chosen in (learned, *(rows(count, seed) for seed in WARM))
    )
    for start in starts:
        await backend.load(start)  # they are in use; PEFT has its own in memory, too
    for some in warm:
        await asyncio.gather(*(backend.train(job) for job in some))
    if keep_prefix:
        other = await backend.initialize(_config(acts_on), count)
        await backend.train(_job(other, acts_on, learned))
    started = Times.now()
    if at_once:
        outcomes = await asyncio.gather(*(backend.train(job) for job in jobs))
    else:
        outcomes = [await backend.train(job) for job in jobs]
    times = started.since()
    for number, outcome in enumerate(outcomes):
        _write(end_of(work, name, count, number), outcome.files)
    await backend.close()
    return times


def _config(acts_on: str) -> Any:
    from ouroboros.domain.config import AdapterConfig

    return AdapterConfig(RANK, RATE, target_modules="all-linear", alpha=ALPHA, acts_on=acts_on)


def _job(start: Any, acts_on: str, learned: list[tuple[str, str]]) -> Any:
    from ouroboros.backend.base import TrainJob
    from ouroboros.domain.config import TrainingConfig
    from ouroboros.domain.data import Row

    return TrainJob(start, _config(acts_on), TrainingConfig(1, 1), tuple(Row(*r) for r in learned))


def _write(folder: Path, files: Any) -> None:
    from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE

    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)


def _read(folder: Path) -> Any:
    from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles

    return AdapterFiles((folder / CONFIG_FILE).read_bytes(), (folder / WEIGHTS_FILE).read_bytes())
