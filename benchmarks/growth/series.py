"""The work of each series, point by point: what it takes of time and of memory."""

import asyncio
import ctypes
import re
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks._serving import Clock
from benchmarks.w2.job import examples

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FLOOR = (0.0, 1e-6, float(2 << 20))
"""By place in a point: less memory than this a process takes or gives back for reasons of its own."""

_M_MMAP_THRESHOLD, _MAPPED = -3, 1 << 18
"""Of glibc's mallopt: larger pieces go back to the system when freed, so that a peak can be seen."""

Work = Callable[[int], Awaitable[Any]]


async def measure_points(points: Sequence[int], processor: bool, work: Work) -> dict[str, list[float]]:
    """Seconds of the work at each point, and bytes at its peak over those before; 0 without Linux."""
    seconds, peaks = [], []
    if _RESET.exists():
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _MAPPED)
    for point in points:
        before = _start()
        clock = Clock(processor)
        await work(point)
        seconds.append(clock())
        peaks.append(float(max(0, _resident("VmHWM") - before)))
    return {"seconds": seconds, "bytes": peaks}


def _start() -> int:
    """Give back what is free, and count the peak from here."""
    if not _RESET.exists():
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    _RESET.write_text("5")
    return _resident("VmRSS")


def _resident(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+)", _STATUS.read_text()) if _RESET.exists() else None
    return 1024 * int(match[1]) if match else 0


def adapters_learning(model: str, points: list[int], processor: bool) -> dict[str, Any]:
    async def work(backend: Any, count: int) -> None:
        rows = examples(count)
        await asyncio.gather(*(_train(backend, [row], seed=i) for i, row in enumerate(rows)))

    return _on(model, points, processor, work)


def adapters_answering(model: str, points: list[int], processor: bool) -> dict[str, Any]:
    from ouroboros.backend.base import GenerateRequest
    from ouroboros.domain.config import AdapterConfig
    from ouroboros.domain.generation import GenerationConfig

    digests: list[str] = []

    async def work(backend: Any, count: int) -> None:
        config = GenerationConfig(max_tokens=16)
        requests = zip(examples(count), digests, strict=False)
        await backend.generate([GenerateRequest(row[0], config, digest) for row, digest in requests])

    async def prepare(backend: Any) -> None:
        for seed in range(max(points)):
            files = await backend.initialize(AdapterConfig(), seed)
            digests.append(await backend.load(files))

    return _on(model, points, processor, work, prepare)


def adapters_registered(points: list[int], processor: bool) -> dict[str, Any]:
    """One store that grows: what all adapters up to each point have taken."""
    from benchmarks.registry.scale import name_of, open_at
    from ouroboros.domain.config import AdapterConfig
    from ouroboros.domain.weights import AdapterFiles
    from ouroboros.testing.backend import BASE

    n_registered = 0

    async def run(folder: Path) -> dict[str, Any]:
        registry, files = open_at(folder), AdapterFiles(b"{}", b"weights")

        async def work(count: int) -> None:
            nonlocal n_registered
            for n in range(n_registered, count):
                registry.create_adapter(name_of(n), AdapterConfig(), BASE, files)
            n_registered = count

        await work(2)
        series = await measure_points(points, processor, work)
        registry.close()
        return series

    with tempfile.TemporaryDirectory() as folder:
        series = asyncio.run(run(Path(folder)))
    return {name: list(accumulate(values)) for name, values in series.items()}


def examples_learned(model: str, points: list[int], processor: bool) -> dict[str, Any]:
    short = [(" ".join(prompt.split()[:12]), output) for prompt, output in examples(max(points))]

    async def work(backend: Any, count: int) -> None:
        await _train(backend, short[:count], batch=16)

    return _on(model, points, processor, work)


def context(model: str, points: list[int], processor: bool) -> dict[str, Any]:
    words = " ".join(prompt for prompt, _ in examples(2 * max(points) // 15)).split()

    async def work(backend: Any, count: int) -> None:
        codec = backend._runtime.tokenizer
        ids = codec.encode_prompt(" ".join(words[:count]))[: count - 8]
        await _train(backend, [(codec.decode(ids), "billing")])

    return _on(model, points, processor, work)


def rank(model: str, points: list[int], processor: bool) -> dict[str, Any]:
    async def work(backend: Any, count: int) -> None:
        await _train(backend, examples(4), rank=count, targets="all-linear")

    return _on(model, points, processor, work)


def _on(
    model: str,
    points: Sequence[int],
    processor: bool,
    work: Callable[[Any, int], Awaitable[None]],
    prepare: Callable[[Any], Awaitable[None]] | None = None,
) -> dict[str, Any]:
    """The work on a backend that has done the smallest piece of it once."""
    from ouroboros.backend.local import LocalBackend

    async def run() -> dict[str, Any]:
        backend = LocalBackend.open(model)
        if prepare:
            await prepare(backend)
        await work(backend, min(points))
        series = await measure_points(points, processor, lambda point: work(backend, point))
        await backend.close()
        return series

    return asyncio.run(run())


async def _train(
    backend: Any,
    rows: Sequence[tuple[str, str]],
    batch: int = 4,
    rank: int = 8,
    targets: str = "q_proj,v_proj",
    seed: int = 0,
) -> None:
    """One epoch of a fresh adapter."""
    from ouroboros.backend.base import TrainJob
    from ouroboros.domain.config import AdapterConfig, TrainingConfig
    from ouroboros.domain.data import Row

    config = AdapterConfig(rank, 1e-3, target_modules=targets, max_steps=100_000)
    start = await backend.initialize(config, seed)
    training_rows = tuple(Row(*row) for row in rows)
    await backend.train(TrainJob(start, config, TrainingConfig(batch, 1), training_rows))
