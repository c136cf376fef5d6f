"""Our arm: the local backend, as the engine calls it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Times
from benchmarks.hundred_examples.job import ALPHA, BATCH, RANK, SEED, TARGETS, Job, folder_of
from ouroboros.backend.base import Backend, TrainJob
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.rows import Row
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles


def ours(job: Mapping[str, Any], runs: int, dtype: str) -> dict[str, Any]:
    """Run the job `runs` times, cold and then warm; what each took, and the adapter's folder."""
    from ouroboros.backend.local import LocalBackend

    work = Job.of(job)
    backend = LocalBackend.open(work.model, dtype=dtype)
    folder = folder_of(work, f"ours-{dtype}")
    return {"times": asyncio.run(_repeat(backend, work, folder, runs)), "folder": str(folder)}


def start(job: Mapping[str, Any]) -> dict[str, Any]:
    """Save the adapter that every arm starts from."""
    from ouroboros.backend.local import LocalBackend

    work = Job.of(job)
    backend = LocalBackend.open(work.model)
    folder = folder_of(work, "start")
    _save(asyncio.run(backend.initialize(_adapter(work), SEED)), folder)
    return {"folder": str(folder)}


async def _repeat(backend: Backend, job: Job, folder: Path, runs: int) -> list[Times]:
    found = [await _train(backend, job, folder) for _ in range(runs)]
    await backend.close()
    return found


async def _train(backend: Backend, job: Job, folder: Path) -> Times:
    started = Times.now()
    adapter = _adapter(job)
    training = TrainingConfig(BATCH, job.epochs, seed=SEED, warmup=0.0)
    first = await backend.initialize(adapter, SEED)
    rows = tuple(Row(prompt, output) for prompt, output in job.rows)
    _save((await backend.train(TrainJob(first, adapter, training, rows))).files, folder)
    return started.since()


def _adapter(job: Job) -> AdapterConfig:
    return AdapterConfig(RANK, job.rate, target_modules=TARGETS, alpha=ALPHA)


def _save(files: AdapterFiles, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)
