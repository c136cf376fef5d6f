"""The fake backend does for an engine what a real one does, without a model."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator

import pytest

from ouroboros.backend.base import Backend, GenerateRequest, ScoreRequest, TrainJob, UpdateJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.errors import Cancelled, InvalidAdapter, NotFound, TooLong
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.losses import APOZero
from ouroboros.domain.merging import MergeStrategy
from ouroboros.domain.training import TrainingProgress
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend

ROWS = (Row("where is my parcel?", "shipping"), Row("charged twice", "billing"))


@pytest.fixture
async def engine() -> AsyncIterator[AdapterLearningEngine]:
    backend: Backend = FakeBackend()
    async with AdapterLearningEngine(backend, Registry(MemoryMetadata(), MemoryBlobs())) as opened:
        yield opened


async def make_job(backend: FakeBackend, *rows: Row, epochs: int = 1, batch_size: int = 4) -> TrainJob:
    config = AdapterConfig()
    start = await backend.initialize(config, 0)
    return TrainJob(start, config, TrainingConfig(batch_size, epochs), rows or ROWS)


async def test_an_engine_learns_serves_versions_and_refuses_unknown_adapters(
    engine: AdapterLearningEngine,
) -> None:
    await engine.create_adapter("tickets")
    examples = [TrainingExample("where is my parcel?", "shipping")]
    version = (await engine.train_adapter("tickets", examples)).unwrap()
    assert version.number == 2
    answers = [
        (await engine.generate_with_adapter("where is my parcel?", ref)).unwrap().text
        for ref in ("tickets", "tickets@1", None)
    ]
    assert answers == ["shipping", "where is my parcel?", "where is my parcel?"]
    stranger = await engine.generate_with_adapter("where is my parcel?", "nobody")
    assert not stranger.ok


async def test_training_leaves_its_start_unchanged_and_reports_each_step() -> None:
    backend = FakeBackend()
    job = await make_job(backend, batch_size=1, epochs=3)
    progress: list[TrainingProgress] = []
    outcome = await backend.train(job, progress.append)
    assert [(p.step, p.steps) for p in progress] == [(n, 6) for n in range(1, 7)]
    assert (outcome.report.rows, outcome.report.steps) == (2, 6)
    before, after = await backend.load(job.start), await backend.load(outcome.files)
    texts = [
        (await backend.generate([GenerateRequest("charged twice", adapter=digest)]))[0].text
        for digest in (before, after)
    ]
    assert texts == ["charged twice", "billing"]


async def test_cancelling_stops_at_the_next_step() -> None:
    backend, cancel = FakeBackend(), CancellationToken()
    steps: list[int] = []

    def stop_at_two(progress: TrainingProgress) -> None:
        steps.append(progress.step)
        if progress.step == 2:
            cancel.cancel()

    with pytest.raises(Cancelled):
        await backend.train(await make_job(backend, epochs=100), stop_at_two, cancel)
    assert steps == [1, 2]


async def test_cancelling_the_asyncio_task_stops_training() -> None:
    backend = FakeBackend(step_seconds=0.001)
    task = asyncio.create_task(backend.train(await make_job(backend, epochs=10_000)))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_rejected_output_is_forgotten() -> None:
    backend = FakeBackend()
    wrong = Row("charged twice", None, APOZero(), rejected="billing")
    outcome = await backend.train(await make_job(backend, *ROWS, wrong))
    digest = await backend.load(outcome.files)
    known, unknown = await backend.score(
        [
            ScoreRequest("where is my parcel?", "shipping", digest),
            ScoreRequest("charged twice", "billing", digest),
        ]
    )
    assert known.mean > unknown.mean


async def test_a_merge_knows_what_each_parent_knows(engine: AdapterLearningEngine) -> None:
    for name, row in zip("ab", ROWS, strict=True):
        await engine.create_adapter(name)
        (await engine.train_adapter(name, [TrainingExample(row.prompt, row.output or "")])).unwrap()
    merged = (await engine.merge_adapters(["a", "b"], MergeStrategy.AVERAGE)).unwrap()
    answers = [(await engine.generate_with_adapter(row.prompt, merged.id)).unwrap().text for row in ROWS]
    assert answers == ["shipping", "billing"]


async def test_one_correction_is_learned() -> None:
    backend, config = FakeBackend(), AdapterConfig()
    start = await backend.initialize(config, 0)
    outcome = await backend.update(UpdateJob(start, config, ROWS[:1]))
    digest = await backend.load(outcome.files)
    (generation,) = await backend.generate([GenerateRequest("where is my parcel?", adapter=digest)])
    assert (generation.text, outcome.report.steps) == ("shipping", 1)


async def test_streaming_returns_the_same_text_as_generating() -> None:
    backend = FakeBackend()
    request = GenerateRequest("one two  two three four", GenerationConfig(max_tokens=10, stop=("four",)))
    (generation,) = await backend.generate([request])
    pieces = [delta async for delta in backend.stream(request)]
    assert "".join(p.text for p in pieces) == generation.text == "one two  two three "
    assert pieces[-1].generation == generation


async def test_invalid_requests_are_refused_as_by_a_real_backend() -> None:
    backend = FakeBackend()
    with pytest.raises(NotFound):
        await backend.generate([GenerateRequest("hi", adapter="0" * 64)])
    with pytest.raises(TooLong, match="Row 2"):
        await backend.check_rows([ROWS[0], Row("word " * 2000, "x")])
    with pytest.raises(InvalidAdapter):
        await backend.load(AdapterFiles(b"{}", b"\x08\0\0\0\0\0\0\0{}"))


def test_importing_it_does_not_import_torch() -> None:
    code = "import sys, ouroboros.testing.backend; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
