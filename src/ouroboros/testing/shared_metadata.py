"""The conformance suite for metadata stores that several processes can open.

It needs a `url` fixture with a URL for `ouroboros.stores.open.open_metadata`, or an `opener` fixture. It
includes all tests of `MetadataStoreSuite`.
"""

import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from ouroboros.registry.leases import Leases
from ouroboros.stores.metadata.base import MetadataStore
from ouroboros.stores.open import open_metadata
from ouroboros.testing.metadata import TICKETS, MetadataStoreSuite, increment_counter, try_create
from ouroboros.testing.processes import child_process, run_in_processes, run_until_killed


class SharedMetadataStoreSuite(MetadataStoreSuite):
    """The guarantees of a store outside the process: other processes see its data, and it persists."""

    @pytest.fixture
    def opener(self, url: str) -> Callable[[], MetadataStore]:
        """A picklable function that opens the same store again, in any process."""
        return MetadataStoreOpener(url)

    @pytest.fixture
    def restart(self) -> Callable[[], None]:
        """A function that restarts the store's server, if it has one."""
        return lambda: None

    @pytest.fixture
    def store(self, opener: Callable[[], MetadataStore]) -> Iterator[MetadataStore]:
        """A store on the shared location, closed after the test."""
        opened = opener()
        yield opened
        opened.close()

    def test_a_second_handle_sees_a_write_at_once(
        self, store: MetadataStore, opener: Callable[[], MetadataStore]
    ) -> None:
        other = opener()
        record = store.put("things", "a", {"n": 1}, expected=0)
        assert other.get("things", "a") == record
        other.append("log", {"from": "other"})
        assert store.read("log")[0].value == {"from": "other"}
        other.close()

    def test_everything_survives_reopening_and_a_restart(
        self,
        store: MetadataStore,
        opener: Callable[[], MetadataStore],
        restart: Callable[[], None],
    ) -> None:
        store.put("things", "a", {"n": 1}, expected=0)
        record = store.put("things", "a", {"n": 2}, expected=1)
        store.append("log", {})
        store.append("log", {"n": 2})
        store.erase("log", 2, 2)
        store.close()
        restart()
        reopened = opener()
        assert reopened.get("things", "a") == record
        assert reopened.append("log", {}) == 3
        reopened.close()

    def test_processes_lose_no_update_and_no_entry(
        self, store: MetadataStore, opener: Callable[[], MetadataStore]
    ) -> None:
        store.put("things", "count", {"n": 0}, expected=0)
        run_in_processes(3, _count_and_append, opener, 20)
        record = store.get("things", "count")
        assert record is not None
        assert record.value == {"n": 60}
        entries = store.read("log")
        assert [e.seq for e in entries] == list(range(1, 61))
        for writer in range(3):
            mine = [e.value["n"] for e in entries if e.value["writer"] == writer]
            assert mine == list(range(20))

    def test_exactly_one_of_several_processes_creates_a_record(
        self, opener: Callable[[], MetadataStore]
    ) -> None:
        assert sorted(run_in_processes(3, _create_in_process, opener)) == [False, False, True]

    @pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
    def test_a_killed_writer_loses_no_acknowledged_write(
        self, store: MetadataStore, opener: Callable[[], MetadataStore], kills: int
    ) -> None:
        for kill in range(kills):
            acknowledged = run_until_killed(1 + kill % 7, _write_until_killed, opener, f"log/{kill}")
            entries = store.read(f"log/{kill}")
            numbers = [e.seq for e in entries]
            assert numbers == list(range(1, len(numbers) + 1))
            assert all(e.value["text"] == _text_of(e.seq) for e in entries)
            record = store.get("things", f"log/{kill}")
            assert record is not None
            assert (
                acknowledged[-1]
                <= record.revision
                == record.value["seq"]
                <= numbers[-1]
                <= acknowledged[-1] + 1
            )
            assert store.append(f"log/{kill}", {}) == numbers[-1] + 1

    def test_exactly_one_of_several_processes_takes_a_lease(
        self, opener: Callable[[], MetadataStore]
    ) -> None:
        assert sorted(run_in_processes(3, _take_lease, opener)) == [False, False, True]

    def test_the_lease_of_a_killed_holder_can_be_taken(
        self, store: MetadataStore, opener: Callable[[], MetadataStore]
    ) -> None:
        with child_process(_hold_lease, opener) as holder:
            assert holder.receive() is True
            assert not Leases(store).acquire(TICKETS)
            assert Leases(store).is_held(TICKETS)
            holder.kill()
        heir = Leases(store)
        assert not heir.is_held(TICKETS)
        assert heir.acquire(TICKETS)
        assert heir.is_held(TICKETS)


class MetadataStoreOpener:
    """Opens a metadata store by its URL; picklable."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self) -> MetadataStore:
        return open_metadata(self.url)


def _count_and_append(number: int, opener: Callable[[], MetadataStore], times: int) -> None:
    store = opener()
    increment_counter(store, times)
    for n in range(times):
        store.append("log", {"writer": number, "n": n})
    store.close()


def _create_in_process(number: int, opener: Callable[[], MetadataStore]) -> bool:
    store = opener()
    try:
        return try_create(store, number)
    finally:
        store.close()


def _write_until_killed(
    report: Callable[[int], None], opener: Callable[[], MetadataStore], log: str
) -> None:
    store = opener()
    for seq in count(1):
        assert store.append(log, {"text": _text_of(seq)}) == seq
        store.put("things", log, {"seq": seq}, expected=seq - 1)
        report(seq)


def _take_lease(_: int, opener: Callable[[], MetadataStore]) -> bool:
    store = opener()
    try:
        return Leases(store).acquire(TICKETS)
    finally:
        store.close()


def _hold_lease(report: Callable[[bool], None], opener: Callable[[], MetadataStore]) -> None:
    report(Leases(opener()).acquire(TICKETS))
    time.sleep(600)


def _text_of(seq: int) -> str:
    return str(seq) * 20_000
