"""The conformance suite for blob stores. Subclass it, provide a `store` fixture, and run pytest.

For a store that several processes can open, use `SharedBlobStoreSuite` instead. It needs a `url` fixture
with a URL for `ouroboros.stores.open.open_blobs`, or an `opener` fixture. `ConformanceSuite` explains
how to declare a test that your store cannot pass.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.open import open_blobs
from ouroboros.testing.processes import run_in_processes, run_in_threads, run_until_killed
from ouroboros.testing.suite import ConformanceSuite

MANY = 100

# In order by code point: "-" and "." sort before "/", so that "a-b" comes before "a/b".
KEYS = ["a", "b-b", "b.b", "b/a", "b/b/c", "b/c", "b_b", "ba/a", "c/0"]

UNSAFE_KEYS = [
    *"/ /a a/ a//b . .. ../a a/../b a/.. ./a a/./b .hidden a/.b a\\b ..\\a A ä * a? ~/a c:/a".split(),
    *"%2e%2e/a %252e%252e/a file:///etc/passwd \u2024\u2024/a a/\uff0e\uff0e/b".split(),
    *["", "a\0b", "a\n", "a b", "x" * 600],
]


ROUNDS = [1, pytest.param(20, marks=pytest.mark.slow)]
"""Number of races: one by default, more in a slow run."""

SIZES = [0, 1, 4095, 4096, 65_537, 5 * 2**20 + 1]


class BlobStoreSuite(ConformanceSuite):
    """The guarantees of every blob store within one process."""

    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        """A fresh, empty store."""
        raise NotImplementedError("Provide a `store` fixture.")

    @pytest.mark.parametrize("data", [b"", b"\0\xff\r\n", bytes(range(256)) * 40_000])
    def test_get_returns_the_bytes_that_were_put(self, store: BlobStore, data: bytes) -> None:
        assert store.put("a/b", data) is True
        assert store.get("a/b") == data

    def test_a_second_put_returns_false_and_changes_nothing(self, store: BlobStore) -> None:
        store.put("a", b"first")
        assert store.put("a", b"second") is False
        assert store.get("a") == b"first"

    def test_a_missing_key_raises_not_found(self, store: BlobStore) -> None:
        store.put("a/b", b"")
        for key in ("b", "a/c", "c/d/e"):
            with pytest.raises(NotFound):
                store.get(key)

    def test_a_deleted_blob_is_gone_and_can_be_put_again(self, store: BlobStore) -> None:
        store.put("a/b", b"1")
        store.put("a/c", b"2")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/there")
        with pytest.raises(NotFound):
            store.get("a/b")
        assert list(store.list()) == ["a/c"]
        store.delete("a/c")
        assert store.put("a/b", b"3") is True
        assert store.get("a/b") == b"3"

    def test_keys_are_listed_in_code_point_order(self, store: BlobStore) -> None:
        for key in reversed(KEYS):
            store.put(key, b"")
        assert list(store.list()) == KEYS

    @pytest.mark.parametrize("prefix", ["a", "b", "b/", "b/b", "b/b/", "b.", "ba/a", "x", "x/y", "c/0/"])
    def test_list_returns_only_keys_with_the_prefix(self, store: BlobStore, prefix: str) -> None:
        for key in KEYS:
            store.put(key, b"")
        assert list(store.list(prefix)) == [k for k in KEYS if k.startswith(prefix)]

    @pytest.mark.parametrize("key", UNSAFE_KEYS)
    def test_unsafe_keys_are_refused(self, store: BlobStore, key: str) -> None:
        for use in (store.get, store.delete, lambda k: store.put(k, b"x")):
            with pytest.raises(StoreError):
                use(key)
        assert list(store.list()) == []

    def test_exactly_one_of_eight_threads_stores_a_key(self, store: BlobStore) -> None:
        barrier = threading.Barrier(8)

        def put(number: int) -> bool:
            barrier.wait()
            return store.put("race/one", _content_by_writer(number))

        results = run_in_threads(8, put)
        assert results.count(True) == 1
        assert store.get("race/one") == _content_by_writer(results.index(True))

    @pytest.mark.parametrize("rounds", ROUNDS)
    def test_exactly_one_of_a_hundred_threads_stores_a_key(self, store: BlobStore, rounds: int) -> None:
        for race in range(rounds):
            barrier = threading.Barrier(MANY)

            def put(
                number: int, key: str = f"race/{race}", barrier: threading.Barrier = barrier
            ) -> bool:
                barrier.wait()
                return store.put(key, _content_by_writer(number))

            results = run_in_threads(MANY, put)
            assert results.count(True) == 1
            assert store.get(f"race/{race}") == _content_by_writer(results.index(True))

    def test_concurrent_readers_see_complete_blobs_or_none(self, store: BlobStore) -> None:
        written = threading.Event()

        def write() -> None:
            for number in range(10):
                store.put(f"large/{number}", _content_by_writer(number) * 8)
            written.set()

        def read() -> None:
            done = False
            while not done:
                done = written.is_set()  # checked before the last read
                for number in range(10):
                    assert _get_or_none(store, f"large/{number}") in (
                        None,
                        _content_by_writer(number) * 8,
                    )
                assert all(_get_or_none(store, key) is not None for key in store.list("large/"))

        run_in_threads(3, lambda number: read() if number else write())
        assert len(list(store.list("large/"))) == 10

    def test_concurrent_puts_and_deletes_leave_complete_blobs(self, store: BlobStore) -> None:
        def work(number: int) -> None:
            for n in range(25):
                store.put("shared/one", _content_by_writer(7))
                store.put(f"own/{number}", bytes([n]))
                assert store.get(f"own/{number}") == bytes([n])
                store.delete("shared/one")
                store.delete(f"own/{number}")

        run_in_threads(4, work)
        assert store.put("shared/one", _content_by_writer(7)) is True
        assert list(store.list()) == ["shared/one"]


class SharedBlobStoreSuite(BlobStoreSuite):
    """The guarantees of a store outside the process: other processes see its blobs, and they persist."""

    race_count = 10

    @pytest.fixture
    def opener(self, url: str) -> Callable[[], BlobStore]:
        """A picklable function that opens the same store again, in any process."""
        return BlobStoreOpener(url)

    @pytest.fixture
    def store(self, opener: Callable[[], BlobStore]) -> Iterator[BlobStore]:
        """A store on the shared location, closed after the test."""
        opened = opener()
        yield opened
        opened.close()

    def test_a_second_handle_sees_a_new_blob_at_once_and_after_closing(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        other = opener()
        store.put("a/b", b"x")
        assert other.get("a/b") == b"x"
        store.close()
        assert list(opener().list()) == ["a/b"]
        other.close()

    def test_a_second_handle_sees_a_deletion_at_once(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        other = opener()
        store.put("a/b", b"x")
        assert other.get("a/b") == b"x"
        store.delete("a/b")
        assert _get_or_none(other, "a/b") is None
        assert list(other.list()) == []
        other.close()

    def test_exactly_one_of_several_processes_stores_a_key(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        results = run_in_processes(3, _put_each, opener, self.race_count)
        for race in range(self.race_count):
            winners = [n for n, mine in enumerate(results) if mine[race]]
            assert len(winners) == 1
            assert store.get(f"race/{race}") == _content_by_writer(winners[0])

    @pytest.mark.slow
    def test_exactly_one_of_a_hundred_threads_in_four_processes_stores_a_key(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        results = run_in_processes(4, _put_each_in_threads, opener, MANY // 4, self.race_count)
        for race in range(self.race_count):
            winners = [(n, mine[race].index(True)) for n, mine in enumerate(results) if any(mine[race])]
            assert sum(mine[race].count(True) for mine in results) == 1
            assert store.get(f"race/{race}") == _content_by_writer(
                MANY // 4 * winners[0][0] + winners[0][1]
            )

    def test_another_process_reads_the_same_bytes(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        blobs = {f"digests/{size}": _bytes_of_size(size) for size in SIZES}
        for key, data in blobs.items():
            store.put(key, data)
        wanted = {key: hashlib.sha256(data).hexdigest() for key, data in blobs.items()}
        assert run_in_processes(1, _read_digests, opener, list(blobs)) == [wanted]

    @pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
    def test_a_killed_writer_leaves_only_complete_blobs(
        self, store: BlobStore, opener: Callable[[], BlobStore], kills: int
    ) -> None:
        for kill in range(kills):
            stored = run_until_killed(2 + kill % 7, _put_until_killed, opener, f"kill/{kill}")
            here = opener()
            assert set(stored) <= set(here.list(f"kill/{kill}/"))
            assert all(here.get(key) == _content_of(key) for key in here.list(f"kill/{kill}/"))
            next_one = f"kill/{kill}/{len(stored)}"
            assert here.put(next_one, _content_of(next_one)) in (True, False)
            assert store.get(next_one) == _content_of(next_one)
            here.close()


class BlobStoreOpener:
    """Opens a blob store by its URL; picklable."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self) -> BlobStore:
        return open_blobs(self.url)


def _put_each(number: int, opener: Callable[[], BlobStore], race_count: int) -> list[bool]:
    store = opener()
    try:
        return [store.put(f"race/{race}", _content_by_writer(number)) for race in range(race_count)]
    finally:
        store.close()


def _put_each_in_threads(
    number: int, opener: Callable[[], BlobStore], threads: int, race_count: int
) -> list[list[bool]]:
    """Whether each thread won each race: one list per race."""
    store = opener()

    def put(thread: int) -> list[bool]:
        return [
            store.put(f"race/{race}", _content_by_writer(number * threads + thread))
            for race in range(race_count)
        ]

    try:
        return [list(race) for race in zip(*run_in_threads(threads, put), strict=True)]
    finally:
        store.close()


def _read_digests(_: int, opener: Callable[[], BlobStore], keys: list[str]) -> dict[str, str]:
    store = opener()
    try:
        return {key: hashlib.sha256(store.get(key)).hexdigest() for key in keys}
    finally:
        store.close()


def _put_until_killed(
    report: Callable[[str], None], opener: Callable[[], BlobStore], folder: str
) -> None:
    store = opener()
    for number in count():
        key = f"{folder}/{number}"
        store.put(key, _content_of(key))
        report(key)


def _get_or_none(store: BlobStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except NotFound:
        return None


def _content_of(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest() * 32_768


def _bytes_of_size(size: int) -> bytes:
    return (hashlib.sha512(str(size).encode()).digest() * (size // 64 + 1))[:size]


def _content_by_writer(number: int) -> bytes:
    """64 KiB that identify their writer and show whether they are complete."""
    return hashlib.sha256(bytes([number])).digest() * 2048
