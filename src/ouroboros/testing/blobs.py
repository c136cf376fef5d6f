"""The laws of a blob store, as tests. Subclass, give a `store` fixture, and run pytest.

A store that several processes can open is tested with `SharedBlobLaws`, which wants a `url` fixture that
`ouroboros.stores.open.open_blobs` understands (or an `opener`) instead.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator

import pytest

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.open import open_blobs
from ouroboros.testing.processes import in_processes, in_threads

# In order by code point: "-" and "." sort before "/", so that "a-b" comes before "a/b".
KEYS = ["a", "b-b", "b.b", "b/a", "b/b/c", "b/c", "b_b", "ba/a", "c/0"]

TRICKS = [
    *"/ /a a/ a//b . .. ../a a/../b a/.. ./a a/./b .hidden a/.b a\\b ..\\a A ä * a? ~/a c:/a".split(),
    *"%2e%2e/a %252e%252e/a file:///etc/passwd \u2024\u2024/a a/\uff0e\uff0e/b".split(),
    *["", "a\0b", "a\n", "a b", "x" * 600],
]


class BlobLaws:
    """What every blob store holds, alone in its process."""

    @pytest.fixture
    def store(self) -> Iterator[BlobStore]:
        """A fresh, empty store."""
        raise NotImplementedError("Give a `store` fixture.")

    @pytest.mark.parametrize("data", [b"", b"\0\xff\r\n", bytes(range(256)) * 40_000])
    def test_a_blob_reads_as_it_was_written(self, store: BlobStore, data: bytes) -> None:
        assert store.put("a/b", data) is True
        assert store.get("a/b") == data

    def test_the_first_to_put_wins_and_the_second_is_told(self, store: BlobStore) -> None:
        store.put("a", b"first")
        assert store.put("a", b"second") is False
        assert store.get("a") == b"first"

    def test_what_is_not_there_is_not_found(self, store: BlobStore) -> None:
        store.put("a/b", b"")
        for key in ("b", "a/c", "c/d/e"):
            with pytest.raises(NotFound):
                store.get(key)

    def test_a_deleted_blob_is_gone_and_may_come_again(self, store: BlobStore) -> None:
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
    def test_a_listing_keeps_to_its_prefix(self, store: BlobStore, prefix: str) -> None:
        for key in KEYS:
            store.put(key, b"")
        assert list(store.list(prefix)) == [k for k in KEYS if k.startswith(prefix)]

    @pytest.mark.parametrize("key", TRICKS)
    def test_keys_that_could_leave_the_store_are_refused(self, store: BlobStore, key: str) -> None:
        for use in (store.get, store.delete, lambda k: store.put(k, b"x")):
            with pytest.raises(StoreError):
                use(key)
        assert list(store.list()) == []

    def test_of_threads_that_put_one_key_exactly_one_wins(self, store: BlobStore) -> None:
        together = threading.Barrier(8)

        def put(number: int) -> bool:
            together.wait()
            return store.put("race/one", _data(number))

        won = in_threads(8, put)
        assert won.count(True) == 1
        assert store.get("race/one") == _data(won.index(True))

    def test_putting_and_deleting_at_once_leaves_whole_blobs(self, store: BlobStore) -> None:
        def work(number: int) -> None:
            for n in range(25):
                store.put("shared/one", _data(7))
                store.put(f"own/{number}", bytes([n]))
                assert store.get(f"own/{number}") == bytes([n])
                store.delete("shared/one")
                store.delete(f"own/{number}")

        in_threads(4, work)
        assert store.put("shared/one", _data(7)) is True
        assert list(store.list()) == ["shared/one"]


class SharedBlobLaws(BlobLaws):
    """What a store holds besides that lies outside the process: others see it, and it stays."""

    races = 10

    @pytest.fixture
    def opener(self, url: str) -> Callable[[], BlobStore]:
        """Opens the same store again, in any process: it must be picklable."""
        return Opener(url)

    @pytest.fixture
    def store(self, opener: Callable[[], BlobStore]) -> Iterator[BlobStore]:
        opened = opener()
        yield opened
        opened.close()

    def test_a_second_handle_sees_a_blob_at_once_and_after_closing(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        other = opener()
        store.put("a/b", b"x")
        assert other.get("a/b") == b"x"
        store.close()
        assert list(opener().list()) == ["a/b"]
        other.close()

    def test_of_processes_that_put_one_key_exactly_one_wins(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        won = in_processes(3, _put_each, opener, self.races)
        for race in range(self.races):
            winners = [n for n, mine in enumerate(won) if mine[race]]
            assert len(winners) == 1
            assert store.get(f"race/{race}") == _data(winners[0])


class Opener:
    """Opens a blob store by its URL, wherever it is called."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self) -> BlobStore:
        return open_blobs(self.url)


def _put_each(number: int, opener: Callable[[], BlobStore], races: int) -> list[bool]:
    store = opener()
    try:
        return [store.put(f"race/{race}", _data(number)) for race in range(races)]
    finally:
        store.close()


def _data(number: int) -> bytes:
    """64 KiB that tell their writer, and whether they are whole."""
    return hashlib.sha256(bytes([number])).digest() * 2048
