"""A program that is stopped at any write, and goes on after `forget`, brings nothing back."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Conflict, NotFound
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.result import Err, Result
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.backup import read_all_records, read_log
from ouroboros.registry.fsck import check_store
from ouroboros.registry.leases import LEASES
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata
from ouroboros.testing.backend import FakeBackend
from ouroboros.testing.watched import WatchedBlobs, WatchedMetadata

SECRET, ANN = "xyzzy", "ann-7391"
A = AdapterId("a")


def correction(engine: AdapterLearningEngine, answer: str, user: str, wait: bool = True):
    signal = FeedbackSignal.user_correction(answer)
    return engine.learn_from_feedback(f"my word, {answer}", "x", signal, "a", user=user, wait=wait)


async def give_feedback(engine: AdapterLearningEngine) -> Result:
    return await correction(engine, f"{SECRET} again", ANN)


async def learn_pending(engine: AdapterLearningEngine) -> Result:
    return await engine.learn_pending("a")


async def train(engine: AdapterLearningEngine) -> Result:
    return await engine.train_adapter("a", [TrainingExample("more", "of this")])


async def merge(engine: AdapterLearningEngine) -> Result:
    return await engine.merge_adapters(["a", "b"], name="ab", anyway=True)


async def roll_back(engine: AdapterLearningEngine) -> Result:
    return await engine.rollback_adapter("a@3")


async def delete(engine: AdapterLearningEngine) -> Result:
    return await engine.delete_adapter("a")


async def forget(engine: AdapterLearningEngine) -> Result:
    return await engine.forget_user(ANN)


VERBS: list[Callable[[AdapterLearningEngine], Awaitable[Result]]] = [
    give_feedback,
    learn_pending,
    train,
    merge,
    roll_back,
    delete,
    forget,
]


@dataclass
class Stop:
    """Calls `meanwhile` in another thread at the n-th write, before it is made or after."""

    at: int = -1
    points: int = 0
    meanwhile: Callable[[], None] = field(default=lambda: None)

    def __call__(self, _: str) -> None:
        self.points += 1
        if self.points == self.at:
            other = threading.Thread(target=self.meanwhile)
            other.start()
            other.join()


class Store:
    """A store with one program that can be stopped, and others."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.metadata, self.blobs = MemoryMetadata(), MemoryBlobs()
        watched = WatchedMetadata(self.metadata, self.stop), WatchedBlobs(self.blobs, self.stop)
        self.engine = AdapterLearningEngine(FakeBackend(), Registry(*watched))

    async def fill(self) -> None:
        """a: trained (event 1), judged by ann (2) and bob (3), and again by both, not learned yet."""
        for name in ("a", "b"):
            (await self.engine.create_adapter(name)).unwrap()
            (await self.engine.train_adapter(name, [TrainingExample(name, "before")])).unwrap()
        (await correction(self.engine, SECRET, ANN)).unwrap()
        (await correction(self.engine, "bob's word", "bob")).unwrap()
        for answer, user in ((f"{SECRET} pending", ANN), ("bob's other word", "bob")):
            signal = FeedbackSignal.user_correction(answer)
            (
                await self.engine.record_feedback(f"my word, {answer}", "x", signal, "a", user=user)
            ).unwrap()
        self.stop.points = 0

    def open_registry(self) -> Registry:
        return Registry(self.metadata, self.blobs)

    def forget_elsewhere(self) -> None:
        """Another program forgets ann, when the lease of the one that was stopped has run out."""
        for lease in self.metadata.scan(LEASES):
            self.metadata.delete(LEASES, lease.key, expected=lease.revision)
        engine = AdapterLearningEngine(FakeBackend(), self.open_registry())
        asyncio.run(engine.forget_user(ANN)).unwrap()

    def text(self) -> str:
        """Everything in the store, as text."""
        records = read_all_records(self.metadata)
        logs = [read_log(self.metadata, name) for name in self.metadata.logs()]
        blobs = [self.blobs.get(key).decode() for key in self.blobs.list()]
        return json.dumps([records, logs]) + "".join(blobs)


async def count_writes(verb: Callable[[AdapterLearningEngine], Awaitable[Result]]) -> int:
    store = Store()
    await store.fill()
    (await verb(store.engine)).unwrap()
    return store.stop.points


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb.__name__)
async def test_stopped_at_any_write_and_continued_after_forget(verb) -> None:
    writes = await count_writes(verb)
    assert writes > 3
    for point in range(1, writes + 1):
        store = Store()
        await store.fill()
        store.stop.at, store.stop.meanwhile = point, store.forget_elsewhere
        result = await verb(store.engine)
        store.stop.at = -1
        assert store.stop.points >= point
        text = store.text()
        assert SECRET not in text, (point, result)
        assert ANN not in text, (point, result)
        # Nothing else is lost, and nothing lies about.
        registry = store.open_registry()
        report = check_store(registry)
        assert (report.damages, report.unused, report.forgetting) == ((), (), ()), point
        if verb is delete:
            continue
        if isinstance(result, Err):
            assert isinstance(result.error, Conflict | NotFound), result
        assert "bob's word" in text
        assert "bob's other word" in text
        learned = registry.load_files(registry.get_version(VersionRef(A))).weights.decode()
        assert "before" in learned, point
        # The program that was stopped goes on working.
        (await correction(store.engine, "and on", "bob")).unwrap()
        assert "and on" in store.text()


async def test_a_judgement_that_another_program_forgot_can_be_given_again() -> None:
    store = Store()
    await store.fill()
    await asyncio.to_thread(store.forget_elsewhere)
    ticket = (await correction(store.engine, SECRET, ANN)).unwrap()
    assert ticket.event == 6
    assert ticket.lesson is not None
    assert ticket.lesson.learned
    assert SECRET in store.text()
