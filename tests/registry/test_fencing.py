"""A writer that was overtaken, or that read what was erased since, can write nothing."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import NotFound
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter
from ouroboros.domain.training import Job, JobState
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry import leases
from ouroboros.registry.codec import encode
from ouroboros.registry.fencing import erasure_guard, raise_epoch
from ouroboros.registry.leases import LEASES, Lease, Leases
from ouroboros.registry.registry import Registry
from ouroboros.stores.metadata.base import Fenced

TICKETS, BOTH = AdapterId("tickets"), AdapterId("both")
MakeFiles = Callable[[object], AdapterFiles]


@pytest.fixture
def overtaken(registry: Registry, base: BaseModel, make_files: MakeFiles) -> Registry:
    """A registry that took the lease of an adapter with one job, and lost it to another program."""
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    assert registry.leases.acquire(TICKETS)
    event = registry.journal.append_examples(TICKETS, [TrainingExample("a", "b")])
    registry.jobs.add(Job(TICKETS, event, TrainingConfig(), datetime.now(UTC)))
    record = registry.stores[0].get(LEASES, "tickets")
    assert record is not None
    registry.stores[0].delete(LEASES, "tickets", expected=record.revision)
    assert Leases(registry.stores[0]).acquire(TICKETS)
    return registry


def blobs_of(registry: Registry) -> list[str]:
    return list(registry.stores[1].list())


@pytest.mark.parametrize("verb", ["commit", "mark applied", "roll back", "store unserved"])
def test_a_holder_that_was_overtaken_changes_nothing(
    overtaken: Registry, make_files: MakeFiles, verb: str
) -> None:
    writes = {
        "commit": lambda: overtaken.commit_version(TICKETS, make_files(2), parent=1, cause="trained"),
        "mark applied": lambda: overtaken.mark_applied(TICKETS, since=0, to=1),
        "roll back": lambda: overtaken.rollback(VersionRef(TICKETS, 1)),
        "store unserved": lambda: overtaken.store_unserved(
            TICKETS, make_files(2), parent=1, cause="trained"
        ),
    }
    before = (overtaken.get_adapter(TICKETS), overtaken.list_versions(TICKETS), blobs_of(overtaken))
    with pytest.raises(Fenced):
        writes[verb]()
    after = (overtaken.get_adapter(TICKETS), overtaken.list_versions(TICKETS), blobs_of(overtaken))
    assert after == before


@pytest.mark.parametrize("point", ["put", "add", "secure"])
def test_whoever_is_overtaken_at_any_write_of_a_commit_removes_what_it_wrote(
    registry: Registry,
    base: BaseModel,
    make_files: MakeFiles,
    monkeypatch: pytest.MonkeyPatch,
    point: str,
) -> None:
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    assert registry.leases.acquire(TICKETS)
    before = blobs_of(registry)
    part = registry.version_rows if point == "add" else registry.weights
    write = getattr(part, point)

    def write_and_lose(*args):
        raise_epoch(registry.stores[0], TICKETS)
        return write(*args)

    monkeypatch.setattr(part, point, write_and_lose)
    with pytest.raises(Fenced):
        registry.commit_version(TICKETS, make_files(2), parent=1, cause="trained")
    assert blobs_of(registry) == before
    assert [v.number for v in registry.list_versions(TICKETS)] == [1]
    assert registry.get_adapter(TICKETS).head == 1


def test_a_checkpoint_of_an_overtaken_training_is_not_kept(overtaken: Registry) -> None:
    before = blobs_of(overtaken)
    with pytest.raises(Fenced):
        overtaken.jobs.save_checkpoint("tickets#1", b"state", 1, 2)
    with pytest.raises(Fenced):
        overtaken.jobs.update("tickets#1", lambda job: replace(job, state=JobState.RUNNING))
    assert blobs_of(overtaken) == before
    assert overtaken.jobs.get("tickets#1").state is JobState.QUEUED


def test_a_lost_lease_is_not_renewed(overtaken: Registry) -> None:
    assert not overtaken.leases.renew(TICKETS)
    assert not overtaken.leases.acquire(TICKETS)


def test_the_next_taking_can_write_again(overtaken: Registry, make_files: MakeFiles) -> None:
    record = overtaken.stores[0].get(LEASES, "tickets")
    assert record is not None
    overtaken.stores[0].delete(LEASES, "tickets", expected=record.revision)
    assert overtaken.leases.acquire(TICKETS)
    assert overtaken.commit_version(TICKETS, make_files(2), parent=1, cause="trained").number == 2


def test_nothing_is_journalled_on_what_was_read_before_an_erasure_or_a_deletion(
    registry: Registry, base: BaseModel, make_files: MakeFiles
) -> None:
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    guard = erasure_guard(registry.get_adapter(TICKETS))
    registry.journal.append_examples(TICKETS, [TrainingExample("a", "b")], guard)
    raise_epoch(registry.stores[0], TICKETS)  # another program trains: that is no hindrance
    registry.journal.append_examples(TICKETS, [TrainingExample("a", "b")], guard)
    raise_epoch(registry.stores[0], TICKETS, erasure=True)
    guards = [guard, erasure_guard(registry.get_adapter(TICKETS))]
    registry.delete_adapter(TICKETS)
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(2))
    for stale in guards:
        with pytest.raises(Fenced):
            registry.journal.append_examples(TICKETS, [TrainingExample("c", "d")], stale)
    assert registry.journal.read(TICKETS) == []


def require_refused(registry: Registry, base: BaseModel, files: AdapterFiles, parent: Adapter) -> None:
    before = blobs_of(registry)
    with pytest.raises(Fenced):
        registry.create_adapter(BOTH, AdapterConfig(), base, files, parents=[parent])
    with pytest.raises(NotFound):
        registry.get_adapter(BOTH)
    assert registry.stores[0].scan("versions", prefix="both@") == []
    assert blobs_of(registry) == before


def test_a_merge_of_parents_that_were_erased_from_or_deleted_is_refused(
    registry: Registry, base: BaseModel, make_files: MakeFiles
) -> None:
    parent = registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    raise_epoch(registry.stores[0], TICKETS, erasure=True)
    erased_from = registry.get_adapter(TICKETS)
    require_refused(registry, base, make_files(2), parent)
    registry.delete_adapter(TICKETS)
    require_refused(registry, base, make_files(2), erased_from)


def test_the_lease_of_another_machine_is_measured_by_this_ones_clock(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is a minute ahead does not take the lease of a living holder."""
    elsewhere = Lease("token", "another machine", 1, "1", datetime.now(UTC) - timedelta(minutes=1))
    registry.stores[0].put(LEASES, "tickets", encode(elsewhere), expected=0)
    now = 1000.0
    monkeypatch.setattr(leases.time, "monotonic", lambda: now)
    assert not registry.leases.acquire(TICKETS)
    now += 29
    renewed = replace(elsewhere, until=elsewhere.until + timedelta(seconds=10))
    registry.stores[0].put(LEASES, "tickets", encode(renewed), expected=1)
    assert not registry.leases.acquire(TICKETS)
    now += 29
    assert not registry.leases.acquire(TICKETS)
    now += 1
    assert registry.leases.acquire(TICKETS)


def test_the_lease_of_another_machine_that_ended_long_ago_is_taken_at_once(registry: Registry) -> None:
    elsewhere = Lease("token", "another machine", 1, "1", datetime.now(UTC) - timedelta(minutes=11))
    registry.stores[0].put(LEASES, "tickets", encode(elsewhere), expected=0)
    assert registry.leases.acquire(TICKETS)
