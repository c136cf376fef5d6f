"""One bad event stops nothing else: not the next events, not other adapters, not forgetting."""

import pytest

from ouroboros.backend.base import TrainOutcome, UpdateJob
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample, StoreError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend

A = AdapterId("a")


class FragileBackend(FakeBackend):
    """Fails on some outputs with an error that is not ours, as a bug would."""

    error: Exception = IndexError("index 257 is out of range")

    async def update(self, job: UpdateJob, *args, **named) -> TrainOutcome:
        if any("poison" in output for row in job.rows for output in row.outputs):
            raise self.error
        return await super().update(job, *args, **named)


@pytest.fixture
async def engine() -> AdapterLearningEngine:
    backend = FragileBackend()
    opened = AdapterLearningEngine(backend, Registry(MemoryMetadata(), MemoryBlobs()))
    for name in ("a", "b"):
        (await opened.create_adapter(name)).unwrap()
        rows = [TrainingExample(f"{name} {i}", "known") for i in range(40)]
        (await opened.train_adapter(name, rows)).unwrap()
    return opened


def record(engine: AdapterLearningEngine, word: str, user: str | None = None):
    signal = FeedbackSignal.user_correction(word)
    return engine.record_feedback(f"say {word}", "x", signal, "a", user=user)


async def test_an_error_that_nobody_foresaw_becomes_the_lesson_of_its_event_alone(
    engine: AdapterLearningEngine,
) -> None:
    tickets = [(await record(engine, word)).unwrap() for word in ("one", "poison", "two")]
    (await engine.learn_pending("a")).unwrap()
    outcomes = [(await engine.look_up_feedback(ticket)).unwrap() for ticket in tickets]
    lessons = [outcome.lesson for outcome in outcomes if outcome.lesson]
    assert [lesson.learned for lesson in lessons] == [True, False, True]
    assert lessons[1].words == "not learned: IndexError: index 257 is out of range"
    for word in ("one", "two"):
        answer = (await engine.generate_with_adapter(f"say {word}", "a")).unwrap()
        assert answer.text == word


async def test_an_error_of_the_store_leaves_events_pending(
    engine: AdapterLearningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FragileBackend, "error", StoreError("The disk is full.", hint="Free some space.")
    )
    ticket = (await record(engine, "poison")).unwrap()
    assert isinstance((await engine.learn_pending("a")).error, StoreError)  # type: ignore[union-attr]
    assert (await engine.look_up_feedback(ticket)).unwrap().lesson is None
    monkeypatch.setattr(FragileBackend, "update", FakeBackend.update)
    (await engine.learn_pending("a")).unwrap()
    assert (await engine.generate_with_adapter("say poison", "a")).unwrap().text == "poison"


@pytest.mark.parametrize("wrong", [{"user": 42}, {"key": 7}])
async def test_a_judgement_that_could_not_be_read_back_is_refused_and_nothing_is_journalled(
    engine: AdapterLearningEngine, wrong: dict
) -> None:
    signal = FeedbackSignal.success()
    result = await engine.learn_from_feedback("q", "x", signal, "a", **wrong)
    assert isinstance(result.error, InvalidExample)  # type: ignore[union-attr]
    assert engine._registry.blocking.journal.last_seq(A) == 1


async def test_a_damaged_event_stops_neither_learning_nor_finding_nor_forgetting(
    engine: AdapterLearningEngine,
) -> None:
    metadata = engine._registry.blocking.stores[0]
    metadata.append("journal/a", {"kind": "feedback", "user": 42})
    metadata.append("journal/a", {"kind": "feedback", "user": "eve", "prompt": 3})
    (await record(engine, "next", user="ann")).unwrap()
    (await engine.learn_pending("a")).unwrap()
    assert (await engine.generate_with_adapter("say next", "a")).unwrap().text == "next"
    (await engine.find_adapters("b 1")).unwrap()
    report = (await engine.check_store()).unwrap()
    assert [(str(d.ref.adapter), d.event) for d in report.damages] == [("a", 2), ("a", 3)]
    # What a damaged event still says of a user is forgotten with the rest.
    assert (await engine.forget_user("eve")).unwrap().events == {A: (3,)}
    assert (await engine.forget_user("ann")).unwrap().events == {A: (4,)}
    (await engine.repair_store((await engine.check_store()).unwrap())).unwrap()
    assert check_store(engine._registry.blocking).damages == ()
