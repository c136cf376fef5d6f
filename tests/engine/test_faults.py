"""A disk that is full or broken at any one write of a verb: a clear error, nothing half-visible."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import StoreError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.result import Err, Result
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.faults import store_error
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend
from ouroboros.testing.watched import WatchedBlobs, WatchedMetadata

A, EXAMPLES = AdapterId("a"), [TrainingExample("p", "o")]
Verb = Callable[[AdapterLearningEngine], Awaitable[Result]]

VERBS: dict[str, Verb] = {
    "create": lambda e: e.create_adapter("new", seed=1),
    "train": lambda e: e.train_adapter("a", EXAMPLES),
    "feedback": lambda e: e.learn_from_feedback("q", "x", FeedbackSignal.user_correction("y"), "a"),
    "rollback": lambda e: e.rollback_adapter("a@1"),
    "delete": lambda e: e.delete_adapter("a"),
    "forget": lambda e: e.forget_events("a", 1),
    "merge": lambda e: e.merge_adapters(["a", "b"], name="ab"),
    "gc": lambda e: e.collect_garbage(),
}


class Disk:
    """Fails at one write, before it is made or after, and works again."""

    def __init__(self) -> None:
        self.passes = 0
        self.fails_at = 0

    def __call__(self, point: str) -> None:
        self.passes += 1
        if self.passes == self.fails_at:
            raise store_error(point, Path("store"), OSError(self.number, "no"))

    number = 0


async def prepare_engine() -> tuple[AdapterLearningEngine, Registry, Disk]:
    disk = Disk()
    registry = Registry(WatchedMetadata(MemoryMetadata(), disk), WatchedBlobs(MemoryBlobs(), disk))
    engine = AdapterLearningEngine(FakeBackend(), registry)
    for name in ("a", "b"):
        await engine.create_adapter(name)
        (await engine.train_adapter(name, [TrainingExample(name, "before")])).unwrap()
    disk.passes = 0
    return engine, registry, disk


def visible(registry: Registry) -> dict[str, bytes]:
    """What each adapter serves."""
    return {
        a.id.name: registry.load_files(registry.get_version(VersionRef(a.id))).weights
        for a in registry.list_adapters()
    }


async def states(verb: Verb) -> tuple[int, list[dict[str, bytes]]]:
    """How many writes a verb makes, and what is served before it and after it."""
    engine, registry, disk = await prepare_engine()
    before = visible(registry)
    (await verb(engine)).unwrap()
    return disk.passes, [before, visible(registry)]


@pytest.mark.parametrize("number", [28, 5], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("name", VERBS)
async def test_a_fault_at_any_write_leaves_what_was_or_what_is_to_be(name: str, number: int) -> None:
    verb = VERBS[name]
    writes, allowed = await states(verb)
    assert writes or name == "gc"
    for fails_at in range(1, writes + 1):
        engine, registry, disk = await prepare_engine()
        disk.fails_at, disk.number = fails_at, number
        result = await verb(engine)
        if isinstance(result, Err):
            assert isinstance(result.error, StoreError)
            assert result.error.message.startswith("Could not ")
            assert result.error.hint
        assert visible(registry) in allowed
        report = check_store(registry)
        assert (report.damages, len(report.forgetting) <= 1) == ((), True)
        await retry_verb(verb, engine)
        assert check_store(registry).damages == check_store(registry).forgetting == ()


async def retry_verb(verb: Verb, engine: AdapterLearningEngine) -> None:
    """The disk works again, and so does the verb, unless it had done its work."""
    result = await verb(engine)
    if isinstance(result, Err):
        assert result.error.code in ("already_exists", "not_found")
