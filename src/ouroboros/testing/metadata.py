"""The conformance suite for metadata stores. Subclass it, provide a `store` fixture, and run pytest.

    class TestMine(MetadataStoreSuite):
        @pytest.fixture
        def store(self): ...

For a store that several processes can open, use `SharedMetadataStoreSuite` of
`ouroboros.testing.shared_metadata` instead. `ConformanceSuite` explains how to declare a test that your
store cannot pass.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from ouroboros.domain.errors import Conflict, StoreError
from ouroboros.domain.names import AdapterId
from ouroboros.registry.leases import Leases
from ouroboros.stores.metadata.base import Fenced, Guard, MetadataStore
from ouroboros.testing.processes import run_in_threads
from ouroboros.testing.suite import ConformanceSuite

# Sorted by code point: "Z" before "a", and the astral plane after U+FFFD, unlike in UTF-16.
UNICODE_KEYS = ["%", "A", "Z", "_", "a", "a/b", "ab", "ß", "ä", "中文", "\ufffd", "🐍", "\U0010ffff"]


TICKETS = AdapterId("tickets")


class MetadataStoreSuite(ConformanceSuite):
    """The guarantees of every metadata store within one process."""

    @pytest.fixture
    def store(self) -> Iterator[MetadataStore]:
        """A fresh, empty store."""
        raise NotImplementedError("Provide a `store` fixture.")

    def test_get_returns_the_record_that_was_put(self, store: MetadataStore) -> None:
        value = {"text": "naïve 🐍\0\n", "list": [1, 2.5, None, True], "deep": {"": {}}}
        written = store.put("things", "a", value, expected=0)
        assert (written.key, written.value, written.revision) == ("a", value, 1)
        assert store.get("things", "a") == written

    def test_a_missing_record_is_none(self, store: MetadataStore) -> None:
        store.put("things", "a", {}, expected=0)
        assert store.get("things", "b") is None
        assert store.get("others", "a") is None

    def test_revisions_grow_by_one(self, store: MetadataStore) -> None:
        for revision in range(5):
            assert store.put("things", "a", {"n": revision}, expected=revision).revision == revision + 1
        record = store.get("things", "a")
        assert record is not None
        assert (record.value, record.revision) == ({"n": 4}, 5)

    @pytest.mark.parametrize("expected", [0, 1, 3])
    def test_a_write_at_the_wrong_revision_conflicts_and_changes_nothing(
        self, store: MetadataStore, expected: int
    ) -> None:
        store.put("things", "a", {"n": 1}, expected=0)
        current = store.put("things", "a", {"n": 2}, expected=1)
        with pytest.raises(Conflict):
            store.put("things", "a", {"n": 3}, expected=expected)
        assert store.get("things", "a") == current

    def test_updating_an_absent_record_conflicts(self, store: MetadataStore) -> None:
        with pytest.raises(Conflict):
            store.put("things", "a", {}, expected=1)
        assert store.get("things", "a") is None

    def test_delete_at_the_wrong_revision_conflicts(self, store: MetadataStore) -> None:
        store.put("things", "a", {}, expected=0)
        for wrong in (0, 2):
            with pytest.raises(Conflict):
                store.delete("things", "a", expected=wrong)
        store.delete("things", "a", expected=1)
        assert store.get("things", "a") is None
        with pytest.raises(Conflict):
            store.delete("things", "a", expected=1)

    def test_mutating_a_returned_value_does_not_change_the_store(self, store: MetadataStore) -> None:
        value = {"inner": [1]}
        record = store.put("things", "a", value, expected=0)
        value["inner"].append(2)
        record.value["inner"].append(3)
        stored = store.get("things", "a")
        assert stored is not None
        assert stored.value == {"inner": [1]}

    def test_scan_returns_records_in_code_point_order(self, store: MetadataStore) -> None:
        for key in reversed(UNICODE_KEYS):
            store.put("things", key, {"key": key}, expected=0)
        records = store.scan("things")
        assert [r.key for r in records] == UNICODE_KEYS
        assert [r.value["key"] for r in records] == UNICODE_KEYS

    @pytest.mark.parametrize("prefix", ["a", "%", "_", "中", "🐍", "\U0010ffff", "A", "none"])
    def test_scan_returns_only_keys_with_the_prefix(self, store: MetadataStore, prefix: str) -> None:
        for key in UNICODE_KEYS:
            store.put("things", key, {}, expected=0)
        assert [r.key for r in store.scan("things", prefix=prefix)] == [
            k for k in UNICODE_KEYS if k.startswith(prefix)
        ]

    def test_scan_pages_without_gaps_or_duplicates(self, store: MetadataStore) -> None:
        keys = [f"k{n:03d}" for n in range(25)]
        for key in keys:
            store.put("things", key, {}, expected=0)
        scanned, after = [], ""
        while page := store.scan("things", prefix="k", after=after, limit=10):
            assert len(page) <= 10
            scanned += [r.key for r in page]
            after = page[-1].key
        assert scanned == keys

    def test_sequence_numbers_start_at_one_and_grow_by_one(self, store: MetadataStore) -> None:
        assert [store.append("log", {"n": n}) for n in range(5)] == [1, 2, 3, 4, 5]
        assert store.append("other", {}) == 1
        assert [(e.seq, e.value) for e in store.read("log")] == [(n + 1, {"n": n}) for n in range(5)]
        assert [e.seq for e in store.read("log", after=2, limit=2)] == [3, 4]
        assert store.read("log", after=5) == []
        assert store.read("nowhere") == []

    def test_sequence_numbers_of_erased_entries_are_not_reused(self, store: MetadataStore) -> None:
        for n in range(5):
            store.append("log", {"n": n})
        store.erase("log", 2, 3)
        assert [e.seq for e in store.read("log")] == [1, 4, 5]
        store.erase("log", 1, 5)
        assert store.read("log") == []
        assert store.append("log", {}) == 6
        assert store.last("log") == 6
        assert store.last("nowhere") == 0

    def test_guarded_writes_take_effect_while_the_guard_holds(self, store: MetadataStore) -> None:
        guards = [Guard("heads", "a", "epoch", 0), Guard("heads", "b", "epoch", 7)]
        store.put("heads", "b", {"epoch": 7}, expected=0)  # "a" is absent, which counts as 0
        assert store.put("things", "x", {"n": 1}, expected=0, guards=guards).revision == 1
        assert store.put("things", "x", {"n": 2}, expected=1, guards=guards).revision == 2
        assert store.append("log", {"n": 1}, guards=guards) == 1

    @pytest.mark.parametrize("epoch", [{"epoch": 8}, {"epoch": 6}, {}])
    def test_a_fenced_writer_writes_nothing(self, store: MetadataStore, epoch: dict) -> None:
        guard = Guard("heads", "a", "epoch", 7)
        store.put("heads", "a", {"epoch": 7}, expected=0)
        store.put("things", "x", {"n": 1}, expected=0, guards=[guard])
        store.append("log", {"n": 1}, guards=[guard])
        store.put("heads", "a", epoch, expected=1)
        with pytest.raises(Fenced):
            store.put("things", "x", {"n": 2}, expected=1, guards=[guard])
        with pytest.raises(Fenced):
            store.put("things", "y", {"n": 2}, expected=0, guards=[guard])
        with pytest.raises(Fenced):
            store.append("log", {"n": 2}, guards=[guard])
        assert [(r.key, r.value, r.revision) for r in store.scan("things")] == [("x", {"n": 1}, 1)]
        assert [e.value for e in store.read("log")] == [{"n": 1}]

    def test_an_entry_is_there_when_the_guard_moves_or_never(self, store: MetadataStore) -> None:
        """Writers append while their guard moves: whoever moved it sees all that was written."""
        store.put("heads", "a", {"epoch": 0}, expected=0)
        barrier = threading.Barrier(3)

        def append(number: int) -> list[str]:
            barrier.wait()
            written = []
            with suppress(Fenced):
                for n in range(20):
                    text = f"{number} {n}"
                    store.append("log", {"text": text}, guards=[Guard("heads", "a", "epoch", 0)])
                    written.append(text)
            return written

        def move(_: int) -> list[str]:
            barrier.wait()
            while not store.read("log"):
                pass  # at least one writer is under way
            store.put("heads", "a", {"epoch": 1}, expected=1)
            return [e.value["text"] for e in store.read("log")]

        *acknowledged, seen = run_in_threads(3, lambda n: move(n) if n == 2 else append(n))
        remaining = [e.value["text"] for e in store.read("log")]
        assert sorted(text for texts in acknowledged for text in texts) == sorted(remaining)
        assert set(remaining) <= set(seen)

    def test_collections_and_logs_are_listed(self, store: MetadataStore) -> None:
        store.put("b", "x", {}, expected=0)
        store.put("a", "x", {}, expected=0)
        store.put("a", "y", {}, expected=0)
        store.append("m", {})
        store.append("l", {})
        store.delete("b", "x", expected=1)
        store.erase("l", 1, 1)
        assert (store.collections(), store.logs()) == (["a"], ["l", "m"])

    def test_a_value_of_one_megabyte_is_stored(self, store: MetadataStore) -> None:
        text = "ü" * 500_000
        store.put("things", "large", {"text": text}, expected=0)
        store.append("log", {"text": text})
        record = store.get("things", "large")
        assert record is not None
        assert record.value == store.read("log")[0].value == {"text": text}

    @pytest.mark.parametrize("key", ["", "a\0b", "\ud800", "k" * 513])
    def test_invalid_keys_are_refused(self, store: MetadataStore, key: str) -> None:
        with pytest.raises(StoreError):
            store.put("things", key, {}, expected=0)
        with pytest.raises(StoreError):
            store.append(key, {})
        assert (store.scan("things"), store.logs()) == ([], [])

    @pytest.mark.parametrize(
        "value", [{"x": float("nan")}, {"x": float("inf")}, {"x": "\ud800"}, {"x": {1}}]
    )
    def test_values_that_are_not_json_are_refused(self, store: MetadataStore, value: dict) -> None:
        with pytest.raises(StoreError):
            store.put("things", "a", value, expected=0)
        with pytest.raises(StoreError):
            store.append("log", value)
        assert store.get("things", "a") is None
        assert store.append("log", {}) == 1

    def test_threads_lose_no_update(self, store: MetadataStore) -> None:
        store.put("things", "count", {"n": 0}, expected=0)
        run_in_threads(4, lambda _: increment_counter(store, 25))
        record = store.get("things", "count")
        assert record is not None
        assert (record.value, record.revision) == ({"n": 100}, 101)

    def test_exactly_one_of_eight_threads_creates_a_record(self, store: MetadataStore) -> None:
        barrier = threading.Barrier(8)

        def create(number: int) -> bool:
            barrier.wait()
            return try_create(store, number)

        assert sorted(run_in_threads(8, create)) == [False] * 7 + [True]

    def test_threads_append_with_unique_sequence_numbers(self, store: MetadataStore) -> None:
        seqs = run_in_threads(4, lambda n: [store.append("log", {"writer": n}) for _ in range(25)])
        assert sorted(seq for mine in seqs for seq in mine) == list(range(1, 101))
        written = {e.seq: e.value["writer"] for e in store.read("log")}
        assert all(written[seq] == n for n, mine in enumerate(seqs) for seq in mine)

    @pytest.mark.parametrize("rounds", [1, pytest.param(20, marks=pytest.mark.slow)])
    def test_exactly_one_of_a_hundred_threads_creates_a_record(
        self, store: MetadataStore, rounds: int
    ) -> None:
        for race in range(rounds):
            results = run_in_threads(
                100, lambda number, key=f"race/{race}": try_create(store, number, key)
            )
            record = store.get("things", f"race/{race}")
            assert record is not None
            assert (results.count(True), record.value) == (1, {"by": results.index(True)})

    def test_a_reader_that_follows_a_log_misses_no_entry(self, store: MetadataStore) -> None:
        """An entry never appears before one that was already read: the journal is read in order."""
        followed: list[int] = []

        def follow() -> None:
            while len(followed) < 60:
                followed.extend(e.seq for e in store.read("log", after=followed[-1] if followed else 0))

        def write() -> None:
            for _ in range(20):
                store.append("log", {"text": "x" * 2000})

        run_in_threads(4, lambda number: write() if number else follow())
        assert followed == list(range(1, 61))

    def test_a_lease_has_one_holder_until_it_is_released(self, store: MetadataStore) -> None:
        one, two = Leases(store), Leases(store)
        assert one.acquire(TICKETS)
        assert not two.acquire(TICKETS)
        two.release(TICKETS)
        assert one.acquire(TICKETS)
        one.release(TICKETS)
        assert two.acquire(TICKETS)


def increment_counter(store: MetadataStore, times: int) -> None:
    """Add one to a shared counter so many times, and retry after each conflict."""
    done = 0
    while done < times:
        record = store.get("things", "count")
        assert record is not None
        try:
            store.put("things", "count", {"n": record.value["n"] + 1}, expected=record.revision)
        except Conflict:
            continue
        done += 1


def try_create(store: MetadataStore, number: int, key: str = "one") -> bool:
    """Create a record; returns whether this caller was the first."""
    try:
        store.put("things", key, {"by": number}, expected=0)
    except Conflict:
        return False
    return True
