"""Our arm: the local backend, as the engine calls it."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import Times
from benchmarks.w2.job import ALPHA, BATCH, RANK, SEED, TARGETS, TrainerRun, folder_of
from benchmarks.w2.mfu import operations, peak
from ouroboros.backend.base import Backend, TrainJob
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles


def ours(job: Mapping[str, Any], runs: int, dtype: str, anchors: float) -> dict[str, Any]:
    """Run the job `runs` times, cold and then warm; what each took, and the adapter's folder.

    For each row, so many `anchors` are trained along.

    After a warm run, also the operations of the job and the machine's peak.
    """
    from ouroboros.backend.local import LocalBackend
    from ouroboros.backend.local.model.load import load_base

    work = TrainerRun.of(job)
    runtime = load_base(work.model, dtype)
    folder = folder_of(work, f"ours-{dtype}-{anchors}")
    training = TrainingConfig(BATCH, work.epochs, seed=SEED, warmup=0.0, anchors=anchors)
    times = asyncio.run(train_repeatedly(LocalBackend(runtime), work, training, folder, runs))
    result = {"times": times, "folder": str(folder)}
    if runs > 1:
        result["operations"] = operations(runtime, work.rows, work.epochs, RANK, TARGETS)
        result["peak"] = peak(runtime.dtype)
    return result


def start(job: Mapping[str, Any]) -> dict[str, Any]:
    """Save the adapter that every arm starts from."""
    from ouroboros.backend.local import LocalBackend

    work = TrainerRun.of(job)
    backend = LocalBackend.open(work.model)
    folder = folder_of(work, "start")
    _save(asyncio.run(backend.initialize(_adapter(work), SEED)), folder)
    return {"folder": str(folder)}


async def train_repeatedly(
    backend: Backend, job: TrainerRun, training: TrainingConfig, folder: Path, runs: int
) -> list[Times]:
    """Run the job `runs` times, and close the backend; what each run took."""
    runs_done = [await _train(backend, job, training, folder) for _ in range(runs)]
    await backend.close()
    return runs_done


async def _train(backend: Backend, job: TrainerRun, training: TrainingConfig, folder: Path) -> Times:
    started = Times.now()
    adapter = _adapter(job)
    first = await backend.initialize(adapter, SEED)
    rows = tuple(Row(prompt, output) for prompt, output in job.rows)
    work = TrainJob(first, adapter, training, rows, anchors=None if training.anchors else ())
    _save((await backend.train(work)).files, folder)
    return started.since()


def _adapter(job: TrainerRun) -> AdapterConfig:
    return AdapterConfig(RANK, job.rate, target_modules=TARGETS, alpha=ALPHA)


def _save(files: AdapterFiles, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).write_bytes(files.config)
    (folder / WEIGHTS_FILE).write_bytes(files.weights)
