"""Our job beside busy programs, with torch imported before or after ouroboros.

Threads inside operations wait for each other at the end of every loop. If one of them loses its
processor to another program, all wait, and a training can take many times as long as on one thread. So
the claim is about a training with all threads on a machine that has fewer processors to give.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from benchmarks.harness import Claim, Spread, Times, fresh, interleave, ratios
from benchmarks.w2.job import BATCH, SEED, TrainerRun, folder_of
from benchmarks.w2.ours import train_repeatedly
from ouroboros.domain.config import TrainingConfig

_BUSY_PROGRAM = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
"""It never rests, and ends with the program that started it."""
_AT_MOST = 1.5
_ALONE = "one thread, alone"
_FIRST_IMPORTS = {"ouroboros imported first": "ouroboros.backend.local", "torch imported first": "torch"}


def measure_beside(job: TrainerRun, busy: int, repeats: int) -> list[Claim]:
    """What the job takes beside `busy` programs that never rest, over what one thread takes alone."""
    shared = {"job": job.plain(), "first_import": "ouroboros.backend.local"}
    arms = {_ALONE: fresh(train_beside, **shared, threads=1, busy=0)} | {
        name: fresh(train_beside, **{**shared, "first_import": module}, threads=None, busy=busy)
        for name, module in _FIRST_IMPORTS.items()
    }
    results = interleave(arms, repeats)
    seconds = {name: [Times(*run["times"]).wall for run in runs] for name, runs in results.items()}
    return [*_claim_ratios(seconds, busy), *_list_seconds(seconds)]


def train_beside(
    job: Mapping[str, Any], first_import: str, threads: int | None, busy: int
) -> dict[str, Any]:
    """Run the job warm, after a first run, and say what it took."""
    import_module(first_import)
    from ouroboros.backend.local import LocalBackend

    work = TrainerRun.of(job)
    backend = LocalBackend.open(work.model, threads=threads)
    training = TrainingConfig(BATCH, work.epochs, seed=SEED, warmup=0.0, anchors=0.0)
    folder = folder_of(work, f"beside-{first_import}-{threads}-{busy}")
    with _busy_programs(busy):
        times = asyncio.run(train_repeatedly(backend, work, training, folder, 2))
    return {"times": times[-1]}


@contextmanager
def _busy_programs(count: int) -> Iterator[None]:
    """So many programs that each keep a processor busy."""
    programs = [subprocess.Popen([sys.executable, "-c", _BUSY_PROGRAM]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _claim_ratios(seconds: Mapping[str, Sequence[float]], busy: int) -> list[Claim]:
    beside = f"beside {busy} busy program{'s' * (busy != 1)}, over one thread alone"
    return [
        Claim(f"{name}, {beside}", Spread.of(ratios(seconds[name], seconds[_ALONE])), at_most=_AT_MOST)
        for name in _FIRST_IMPORTS
    ]


def _list_seconds(seconds: Mapping[str, Sequence[float]]) -> list[Claim]:
    return [Claim(f"job, {name}", Spread.of(values), unit=" s") for name, values in seconds.items()]
