"""Never slipping back, with a real model: forgetting is seen, repaired or refused."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ouroboros.backend.base import ScoreRequest
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Refused, TrainingFailed
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.domain.result import Err
from ouroboros.domain.verdict import CheckName
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.tiny import tiny_model

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
TRAINING = TrainingConfig(batch_size=4, epochs=30, replay=0.0, anchors=0.0)
COLOURS, PLACES = ("red", "blue", "green"), ("north", "south", "east")


def make_examples(words, what: str) -> list[TrainingExample]:
    return [TrainingExample(f"{what} {i} of {word}", word) for word in words for i in range(4)]


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def engine(folder: Path):
    backend = LocalBackend.open(str(folder), dtype="float32", threads=1)
    async with AdapterLearningEngine(backend, Registry(MemoryMetadata(), MemoryBlobs())) as engine:
        (await engine.create_adapter("tickets", CONFIG)).unwrap()
        yield engine


async def right(engine, examples, name="tickets") -> int:
    return (await engine.evaluate_adapter(name, examples)).unwrap().correct


async def test_forgetting_is_seen_and_the_served_adapter_still_knows(engine):
    known = make_examples(COLOURS, "tell")
    (await engine.train_adapter("tickets", known, TRAINING)).unwrap()
    assert await right(engine, known) == 12
    result = await engine.train_adapter(
        "tickets", make_examples(PLACES, "tell"), replace(TRAINING, epochs=60)
    )
    last = (await engine.get_versions("tickets")).unwrap()[-1]
    assert last.verdict.attempts[0].failed, "trained without replay, it must forget"
    assert CheckName.KNOWN in last.verdict.attempts[0].failed
    assert await right(engine, known) >= 10, "promoted or refused, what is served still knows"
    assert isinstance(result, Err) == last.refused


async def test_replay_keeps_what_was_known(engine):
    known, new = make_examples(COLOURS, "tell"), make_examples(PLACES, "go")
    (await engine.train_adapter("tickets", known, TRAINING)).unwrap()
    version = (await engine.train_adapter("tickets", new, replace(TRAINING, replay=1.0))).unwrap()
    assert version.verdict.attempts[0].failed == ()
    assert await right(engine, known) == await right(engine, new) == 12


async def test_held_out_rows_count_from_when_they_were_learned_and_not_from_before(engine):
    many = [TrainingExample(f"tell {i} of {word}", word) for word in COLOURS for i in range(16)]
    head = (await engine.train_adapter("tickets", many, replace(TRAINING, epochs=3))).unwrap()
    standing = engine._registry.blocking.scores.get(head.adapter, head.digest)
    assert len(standing.answers_by_probe()) == 5
    assert standing.learned_by_probe() == standing.answers_by_probe()


async def test_anchors_keep_the_adapter_near_its_base(engine):
    drifts = []
    for name, share in (("free", 0.0), ("anchored", 1.0)):
        (await engine.create_adapter(name, CONFIG)).unwrap()
        training = replace(TRAINING, anchors=share)
        version = (await engine.train_adapter(name, make_examples(COLOURS, "tell"), training)).unwrap()
        drifts.append(version.verdict.find_check(CheckName.DRIFT).value)
    assert drifts[1] < 0.5 * drifts[0]


async def test_a_gradient_that_is_not_a_number_leaves_everything_as_it_was(engine, monkeypatch):
    (await engine.train_adapter("tickets", make_examples(COLOURS, "tell"), TRAINING)).unwrap()
    plain, calls = GradientBatcher.add_gradient, []

    def break_gradients(*args):
        gradients = yield from plain(*args)
        calls.append(gradients)
        return replace(gradients, loss=math.nan) if len(calls) == 5 else gradients

    monkeypatch.setattr(GradientBatcher, "add_gradient", break_gradients)
    result = await engine.train_adapter("tickets", make_examples(PLACES, "go"), TRAINING)
    assert isinstance(result, Err)
    assert isinstance(result.error, TrainingFailed)
    assert len(calls) == 5
    assert [v.number for v in (await engine.get_versions("tickets")).unwrap()] == [1, 2]
    assert len((await engine.get_probes("tickets")).unwrap()) == 12
    version = (await engine.train_adapter("tickets", make_examples(PLACES, "go"), TRAINING)).unwrap()
    assert version.number > 2


async def test_the_base_answers_bit_for_bit_as_before(engine):
    prompts = ("where is it?", "tell 1 of red", "hello")
    requests = [ScoreRequest(p, o) for p in prompts for o in ("red", "north", "a longer answer")]
    before = await engine._backend.score(requests)
    (await engine.train_adapter("tickets", make_examples(COLOURS, "tell"), TRAINING)).unwrap()
    fix = FeedbackSignal.user_correction("blue")
    (await engine.learn_from_feedback("hello", "no idea", fix, "tickets")).unwrap()
    (await engine.merge_adapters(["tickets", "tickets@1"], name="both", anyway=True)).unwrap()
    assert await engine._backend.score(requests) == before


STREAMS: dict[str, Callable[[], list[TrainingExample]]] = {
    "one row": lambda: make_examples(["red"], "tell")[:1],
    "shorter than a batch": lambda: make_examples(["red"], "tell")[:3],
    "one class": lambda: [TrainingExample(f"row {i}", "red") for i in range(48)],
    "duplicates": lambda: [TrainingExample("row", "red")] * 48,
    "contradictions": lambda: [TrainingExample("row", word) for word in COLOURS] * 16,
}


@pytest.mark.parametrize("stream", STREAMS)
async def test_a_poor_stream_is_learned_or_refused_in_order(engine, stream):
    examples = STREAMS[stream]()
    result = await engine.train_adapter("tickets", examples, replace(TRAINING, epochs=2))
    assert not isinstance(result, Err) or isinstance(result.error, Refused)
    head = (await engine.get_adapter("tickets")).unwrap().head
    assert head == (1 if isinstance(result, Err) else 2)
    lines = (await engine.explain_version("tickets@2")).unwrap().lines
    assert lines[-1].startswith("Judged in")


@pytest.mark.parametrize("stream", ["one class", "duplicates", "contradictions"])
async def test_a_poor_stream_costs_nothing_of_what_was_known(engine, stream):
    known = make_examples(PLACES, "tell")
    (await engine.train_adapter("tickets", known, TRAINING)).unwrap()
    assert await right(engine, known) == 12
    await engine.train_adapter("tickets", STREAMS[stream](), replace(TRAINING, epochs=2, replay=2.0))
    assert await right(engine, known) >= 11


async def test_nothing_to_learn_changes_nothing(engine):
    assert isinstance(await engine.train_adapter("tickets", []), Err)
    assert not engine._registry.blocking.journal.read(AdapterId("tickets"))
