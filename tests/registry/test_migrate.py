"""A whole store moves into one of another kind, goes on where it broke off, and mixes with nothing."""

from collections.abc import Callable

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import AlreadyExists, StoreError
from ouroboros.domain.names import AdapterId
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.fsck import check
from ouroboros.registry.migrate import Copied, Stores, migrate
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata

TICKETS = AdapterId("tickets")


@pytest.fixture
def source(registry: Registry, base: BaseModel, make_files: Callable[[object], AdapterFiles]) -> Stores:
    registry.create(TICKETS, AdapterConfig(), base, make_files(1))
    for n in range(4):
        registry.journal.examples(TICKETS, [TrainingExample(f"naïve {n}", "out")])
    registry.commit(TICKETS, make_files(2), parent=1, cause="trained", events=4)
    registry.journal.erase(TICKETS, 2, 2)
    registry.journal.erase(TICKETS, 4, 4)
    return Stores(registry._metadata, registry._blobs)


@pytest.fixture
def target() -> Stores:
    return Stores(MemoryMetadata(), MemoryBlobs())


def test_the_copy_holds_the_same(source: Stores, target: Stores) -> None:
    copied = migrate(source, target)
    before, after = (Registry(s.metadata, s.blobs) for s in (source, target))
    assert after.adapters() == before.adapters()
    assert after.versions(TICKETS) == before.versions(TICKETS)
    assert [j.seq for j in after.journal.read(TICKETS)] == [1, 3]
    assert after.journal.end(TICKETS) == 4
    assert check(after).damages == ()
    assert copied.blobs == 4


class Power(Exception):
    """It failed."""


class Failing:
    """A store that does `writes` of its writes, and then no more."""

    def __init__(self, store: object, writes: list[int]) -> None:
        self._store = store
        self._writes = writes

    def __getattr__(self, name: str):
        if name in ("put", "append", "erase"):
            if self._writes[0] == 0:
                raise Power
            self._writes[0] -= 1
        return getattr(self._store, name)


def test_a_copy_broken_off_at_any_write_goes_on(source: Stores) -> None:
    for writes in range(100):
        target, left = Stores(MemoryMetadata(), MemoryBlobs()), [writes]
        try:
            migrate(source, Stores(Failing(target.metadata, left), Failing(target.blobs, left)))  # type: ignore[arg-type]
            whole = True
        except Power:
            whole = False
        migrate(source, target)
        assert migrate(source, target) == Copied(blobs=4, records=len(_keys(source)), logs=1)
        assert _keys(target) == _keys(source)
        assert [e.seq for e in target.metadata.read("journal/tickets")] == [1, 3]
        if whole:
            return
    pytest.fail("100 writes were not enough")


def test_a_target_with_something_else_is_refused_and_left_alone(source: Stores, target: Stores) -> None:
    target.metadata.put("adapters", "mine", {"n": 1}, expected=0)
    with pytest.raises(AlreadyExists, match="does not"):
        migrate(source, target)
    assert target.metadata.collections() == ["adapters"]
    assert list(target.blobs.list()) == []


def test_a_log_of_another_store_is_refused(source: Stores, target: Stores) -> None:
    target.metadata.append("journal/tickets", {"n": 1})
    with pytest.raises(AlreadyExists):
        migrate(source, target)
    assert target.metadata.last("journal/tickets") == 1


def test_a_blob_that_differs_is_found(source: Stores, target: Stores) -> None:
    target.blobs.put(next(iter(source.blobs.list())), b"other")
    with pytest.raises(StoreError, match="is another one"):
        migrate(source, target)
    assert target.metadata.collections() == []


def _keys(stores: Stores) -> list[str]:
    return [r.key for c in stores.metadata.collections() for r in stores.metadata.scan(c)]
