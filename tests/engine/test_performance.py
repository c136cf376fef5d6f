"""Judgements move the head back when they say so, and a running generator sees it at once."""

import pytest

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend


def engine_with(auto_rollback: float) -> AdapterLearningEngine:
    registry = Registry(MemoryMetadata(), MemoryBlobs())
    return AdapterLearningEngine(FakeBackend(), registry, auto_rollback=auto_rollback)


async def train(engine: AdapterLearningEngine, answer: str) -> None:
    config = TrainingConfig()
    (await engine.train_adapter("a", [TrainingExample("p", answer)], config)).unwrap()


async def judge(engine: AdapterLearningEngine, version: str, signal: FeedbackSignal, key: str) -> None:
    """A judgement that teaches nothing, so that the head stays: of an answer never given."""
    answer = Generation(f"never said {key}", (), (), "stop", 1, version)
    (await engine.learn_from_feedback(f"q {key}", answer, signal, "a", key=key)).unwrap()


async def live(engine: AdapterLearningEngine) -> None:
    """a@2 answers well twenty times; a@3 badly four times."""
    await engine.create_adapter("a")
    await train(engine, "one")
    for n in range(20):
        await judge(engine, "a@2", FeedbackSignal.preference_pair(f"never said g{n}", "x"), f"g{n}")


@pytest.fixture
async def judged() -> AdapterLearningEngine:
    engine = engine_with(0.05)
    await live(engine)
    return engine


async def test_the_head_goes_back_when_it_is_judged_worse(judged: AdapterLearningEngine) -> None:
    await train(judged, "two")
    head = (await judged.get_adapter("a")).unwrap().head
    for n in range(4):
        served = (await judged.get_adapter("a")).unwrap().head
        await judge(judged, f"a@{served}", FeedbackSignal.failure(), f"b{n}")
    (move,) = (await judged.get_moves("a")).unwrap()
    assert move.after < head
    assert "judged worse since" in move.reason
    assert "0 of 4 right" in move.reason


async def test_without_the_setting_it_stays() -> None:
    engine = engine_with(0.0)
    await live(engine)
    for n in range(8):
        await judge(engine, "a@2", FeedbackSignal.failure(), f"b{n}")
    assert (await engine.get_moves("a")).unwrap() == []


async def test_performance_has_every_version_and_what_was_said(judged: AdapterLearningEngine) -> None:
    performance = (await judged.track_adapter("a")).unwrap()
    uses = {v.number: use for v, use in performance.versions}
    assert (uses[1].judged, uses[2].good) == (0, 20)
    assert performance.usage.judged == 20
    assert performance.trend == ""


async def test_a_rollback_is_visible_to_the_very_next_request(judged: AdapterLearningEngine) -> None:
    await train(judged, "two")
    for version, answer in (("a@2", "one"), (None, "two")) * 3:
        if version is None:
            newest = (await judged.get_versions("a")).unwrap()[-1]
            await judged.rollback_adapter(newest.ref)
        else:
            await judged.rollback_adapter(version)
        assert (await judged.generate_with_adapter("p", "a")).unwrap().text == answer
