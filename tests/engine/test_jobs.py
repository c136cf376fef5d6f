"""A training that is killed is gone on with, and comes to the same bits; it can be given up anywhere."""

import asyncio
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Cancelled, NotFound, TrainingFailed
from ouroboros.domain.names import AdapterId
from ouroboros.domain.result import Err
from ouroboros.domain.training import JobState
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend

TRAINER = """
import asyncio, sys, time
from pathlib import Path
from tests.engine.test_jobs import engine_at, start
from ouroboros.backend.local import LocalBackend

folder, model = sys.argv[1:]
def say(now):
    print(now.step, flush=True)
    if now.step == 5:
        time.sleep(600)
engine = engine_at(Path(folder), LocalBackend.open(model, dtype="float32", threads=1))
asyncio.run(start(engine, say))
"""


def engine_at(folder: Path, backend) -> AdapterLearningEngine:
    registry = Registry(
        open_metadata(f"sqlite:///{folder}/metadata.db"), open_blobs(f"file://{folder}/blobs")
    )
    return AdapterLearningEngine(backend, registry, checkpoint_seconds=0.0)


async def start(engine: AdapterLearningEngine, on_progress=None, cancel=None):
    await engine.create_adapter("a", AdapterConfig(rank=2, learning_rate=0.01))
    examples = [TrainingExample(f"prompt {i}", f"answer {i % 3}") for i in range(6)]
    config = TrainingConfig(batch_size=2, epochs=4)
    return await engine.train_adapter("a", examples, config, on_progress=on_progress, cancel=cancel)


async def test_a_killed_training_comes_to_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", TRAINER, str(tmp_path / "killed"), str(tiny)],
        stdout=subprocess.PIPE,
        text=True,
    ) as trainer:
        assert trainer.stdout is not None
        assert [trainer.stdout.readline() for _ in range(5)] == [f"{n}\n" for n in range(1, 6)]
        trainer.kill()
    backend = LocalBackend.open(str(tiny), dtype="float32", threads=1)
    engine, whole = (engine_at(tmp_path / name, backend) for name in ("killed", "whole"))
    (job,) = (await engine.list_jobs("a")).unwrap()
    assert (job.id, job.state, job.step, job.steps) == ("a#1", JobState.INTERRUPTED, 5, 12)
    steps: list[int] = []
    resumed = (await engine.resume_job(job.id, on_progress=lambda n: steps.append(n.step))).unwrap()
    uninterrupted = (await start(whole)).unwrap()
    assert steps[0] == 6
    assert resumed.digest == uninterrupted.digest
    assert resumed.report is not None
    assert uninterrupted.report is not None
    assert resumed.report.final_loss == uninterrupted.report.final_loss
    assert resumed.report.tokens == uninterrupted.report.tokens
    assert (await engine.list_jobs()).unwrap() == []
    assert list(engine._registry.blocking.stores[1].list("checkpoints/")) == []
    assert (await engine.rebuild_version(resumed.ref)).unwrap().identical
    await engine.close()
    await whole.close()


@pytest.fixture
async def engine(tmp_path: Path):
    opened = engine_at(tmp_path, FakeBackend(step_seconds=0.05))
    yield opened
    await opened.close()


async def test_a_training_is_given_up_from_another_program(tmp_path: Path) -> None:
    engine = engine_at(tmp_path, FakeBackend(step_seconds=0.3))
    training_began = threading.Event()
    training = asyncio.create_task(start(engine, lambda _: training_began.set()))
    await asyncio.to_thread(training_began.wait)
    other = engine_at(tmp_path, FakeBackend())
    (job,) = (await other.list_jobs()).unwrap()
    assert job.state is JobState.RUNNING
    (await other.cancel_job(job.id)).unwrap()
    ended = await training
    assert isinstance(ended, Err)
    assert isinstance(ended.error, Cancelled)
    assert (await other.list_jobs()).unwrap() == []
    assert (await other.get_adapter("a")).unwrap().head == 1
    await other.close()
    await engine.close()


async def test_a_failed_training_says_why_and_can_be_tried_again(
    engine: AdapterLearningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_):
        raise TrainingFailed("The loss was nan.")

    with monkeypatch.context() as broken:
        broken.setattr(engine._backend, "train", fail)
        assert not (await start(engine)).ok
    (job,) = (await engine.list_jobs("a")).unwrap()
    assert (job.state, job.reason) == (JobState.FAILED, "The loss was nan.")
    assert (await engine.resume_job(job.id)).unwrap().number == 2
    assert (await engine.list_jobs()).unwrap() == []


async def test_a_job_whose_adapter_moved_on_starts_anew_from_the_head(
    engine: AdapterLearningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_):
        raise TrainingFailed("The loss was nan.")

    with monkeypatch.context() as broken:
        broken.setattr(engine._backend, "train", fail)
        await start(engine)
    (job,) = (await engine.list_jobs()).unwrap()
    (await engine.train_adapter("a", [TrainingExample("new", "one")])).unwrap()
    assert (await engine.resume_job(job.id)).unwrap().parent == 2


async def test_many_adapters_train_at_once(engine: AdapterLearningEngine) -> None:
    names = [f"a{n}" for n in range(8)]
    for name in names:
        await engine.create_adapter(name)
    example = [TrainingExample("p", "o")]
    trained = await asyncio.gather(*(engine.train_adapter(n, example) for n in names * 2))
    assert sorted(str(t.unwrap().ref) for t in trained) == sorted(
        f"{n}@{v}" for n in names for v in (2, 3)
    )


async def test_what_is_not_there_cannot_be_resumed_or_given_up(engine: AdapterLearningEngine) -> None:
    for result in (await engine.resume_job("a#7"), await engine.cancel_job("a#7")):
        assert isinstance(result.error, NotFound)  # type: ignore[union-attr]


async def test_the_jobs_of_a_deleted_adapter_are_gone(
    engine: AdapterLearningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_):
        raise TrainingFailed("The loss was nan.")

    monkeypatch.setattr(engine._backend, "train", fail)
    await start(engine)
    (await engine.delete_adapter("a")).unwrap()
    assert (await engine.list_jobs()).unwrap() == []


async def test_a_paused_training_is_kept_and_comes_to_the_same_bits(tiny: Path, tmp_path: Path) -> None:
    backend = LocalBackend.open(str(tiny), dtype="float32", threads=1)
    engine, whole = (engine_at(tmp_path / name, backend) for name in ("paused", "whole"))
    await engine.create_adapter("a", AdapterConfig(rank=2, learning_rate=0.01))
    examples = [TrainingExample(f"prompt {i}", f"answer {i % 3}") for i in range(6)]
    config = TrainingConfig(batch_size=2, epochs=4)
    job = (await engine.submit_training("a", examples, config)).unwrap()
    assert (await engine.list_jobs("a")).unwrap() == [job]
    cancel = CancellationToken()
    jobs = engine._registry.blocking.jobs

    def pause_at_step_five(now) -> None:
        if now.step == 5:
            jobs.update(job.id, lambda j: replace(j, state=JobState.PAUSED))
            cancel.cancel()

    stopped = await engine.resume_job(job.id, on_progress=pause_at_step_five, cancel=cancel)
    assert isinstance(stopped, Err)
    (paused,) = (await engine.list_jobs("a")).unwrap()
    assert (paused.state, paused.step) == (JobState.PAUSED, 5)
    resumed = (await engine.resume_job(job.id)).unwrap()
    assert resumed.digest == (await start(whole)).unwrap().digest
    assert (await engine.list_jobs()).unwrap() == []
    await engine.close()
    await whole.close()


async def test_a_training_that_is_paused_before_its_turn_waits_for_its_resumption() -> None:
    async with AdapterLearningEngine(FakeBackend(), memory_registry()) as engine:
        await engine.create_adapter("a")
        async with engine._locks[AdapterId("a")]:
            running = asyncio.create_task(engine.train_adapter("a", [TrainingExample("p", "q")]))
            while not (jobs := (await engine.list_jobs("a")).unwrap()):
                await asyncio.sleep(0)
            (job,) = jobs
            paused = (await engine.pause_job(job.id)).unwrap()
        assert paused.state is JobState.PAUSED
        assert isinstance((await running), Err)
        assert (await engine.resume_job(job.id)).unwrap().number == 2
        finished = await engine.pause_job(job.id)
        assert isinstance(finished, Err)
        assert isinstance(finished.error, NotFound)


def memory_registry() -> Registry:
    return Registry(open_metadata("memory:"), open_blobs("memory:"))
