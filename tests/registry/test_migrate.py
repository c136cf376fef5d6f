"""A whole store moves into one of another kind, goes on where it broke off, and mixes with nothing."""

from collections.abc import Callable

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import AlreadyExists, StoreError
from ouroboros.domain.names import AdapterId
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.fsck import check_store
from ouroboros.registry.migrate import MigrationReport, Store, migrate_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata

TICKETS = AdapterId("tickets")


@pytest.fixture
def source(registry: Registry, base: BaseModel, make_files: Callable[[object], AdapterFiles]) -> Store:
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    for n in range(4):
        registry.journal.append_examples(TICKETS, [TrainingExample(f"naïve {n}", "out")])
    registry.commit_version(TICKETS, make_files(2), parent=1, cause="trained", events=4)
    registry.journal.erase(TICKETS, 2, 2)
    registry.journal.erase(TICKETS, 4, 4)
    return Store(registry._metadata, registry._blobs)


@pytest.fixture
def target() -> Store:
    return Store(MemoryMetadata(), MemoryBlobs())


def test_the_copy_holds_the_same(source: Store, target: Store) -> None:
    copied = migrate_store(source, target)
    before, after = (Registry(s.metadata, s.blobs) for s in (source, target))
    assert after.list_adapters() == before.list_adapters()
    assert after.list_versions(TICKETS) == before.list_versions(TICKETS)
    assert [j.seq for j in after.journal.read(TICKETS)] == [1, 3]
    assert after.journal.last_seq(TICKETS) == 4
    assert check_store(after).damages == ()
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


def test_a_copy_broken_off_at_any_write_goes_on(source: Store) -> None:
    for writes in range(100):
        target, budget = Store(MemoryMetadata(), MemoryBlobs()), [writes]
        failing = Store(Failing(target.metadata, budget), Failing(target.blobs, budget))  # type: ignore[arg-type]
        try:
            migrate_store(source, failing)
            whole = True
        except Power:
            whole = False
        migrate_store(source, target)
        assert migrate_store(source, target) == MigrationReport(
            blobs=4, records=len(_keys(source)), logs=1
        )
        assert _keys(target) == _keys(source)
        assert [e.seq for e in target.metadata.read("journal/tickets")] == [1, 3]
        if whole:
            return
    pytest.fail("100 writes were not enough")


def test_a_target_with_something_else_is_refused_and_left_alone(source: Store, target: Store) -> None:
    target.metadata.put("adapters", "mine", {"n": 1}, expected=0)
    with pytest.raises(AlreadyExists, match="does not"):
        migrate_store(source, target)
    assert target.metadata.collections() == ["adapters"]
    assert list(target.blobs.list()) == []


def test_a_log_of_another_store_is_refused(source: Store, target: Store) -> None:
    target.metadata.append("journal/tickets", {"n": 1})
    with pytest.raises(AlreadyExists):
        migrate_store(source, target)
    assert target.metadata.last("journal/tickets") == 1


def test_a_blob_that_differs_is_found(source: Store, target: Store) -> None:
    target.blobs.put(next(iter(source.blobs.list())), b"other")
    with pytest.raises(StoreError, match="is another one"):
        migrate_store(source, target)
    assert target.metadata.collections() == []


def _keys(stores: Store) -> list[str]:
    return [r.key for c in stores.metadata.collections() for r in stores.metadata.scan(c)]
