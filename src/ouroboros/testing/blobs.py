"""The laws of a blob store, as tests. Subclass, give a `store` fixture, and run pytest.

A store that several processes can open is tested with `SharedBlobLaws`, which wants a `url` fixture that
`ouroboros.stores.open.open_blobs` understands (or an `opener`) instead. A law that yours cannot
hold is declared: see `Laws`.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.open import open_blobs
from ouroboros.testing.laws import Laws
from ouroboros.testing.processes import in_processes, in_threads, killed

HUNDRED = 100

# In order by code point: "-" and "." sort before "/", so that "a-b" comes before "a/b".
KEYS = ["a", "b-b", "b.b", "b/a", "b/b/c", "b/c", "b_b", "ba/a", "c/0"]

TRICKS = [
    *"/ /a a/ a//b . .. ../a a/../b a/.. ./a a/./b .hidden a/.b a\\b ..\\a A ä * a? ~/a c:/a".split(),
    *"%2e%2e/a %252e%252e/a file:///etc/passwd \u2024\u2024/a a/\uff0e\uff0e/b".split(),
    *["", "a\0b", "a\n", "a b", "x" * 600],
]


ROUNDS = [1, pytest.param(20, marks=pytest.mark.slow)]
"""Races: one by default, and enough of them to trust in a slow run."""

SIZES = [0, 1, 4095, 4096, 65_537, 5 * 2**20 + 1]


class BlobLaws(Laws):
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

    @pytest.mark.parametrize("rounds", ROUNDS)
    def test_of_a_hundred_that_put_one_key_exactly_one_wins(self, store: BlobStore, rounds: int) -> None:
        for race in range(rounds):
            together = threading.Barrier(HUNDRED)

            def put(
                number: int, key: str = f"race/{race}", together: threading.Barrier = together
            ) -> bool:
                together.wait()
                return store.put(key, _data(number))

            won = in_threads(HUNDRED, put)
            assert won.count(True) == 1
            assert store.get(f"race/{race}") == _data(won.index(True))

    def test_who_reads_meanwhile_finds_a_blob_whole_or_not_at_all(self, store: BlobStore) -> None:
        written = threading.Event()

        def write() -> None:
            for number in range(10):
                store.put(f"large/{number}", _data(number) * 8)
            written.set()

        def read() -> None:
            done = False
            while not done:
                done = written.is_set()  # before the last look
                for number in range(10):
                    assert _found(store, f"large/{number}") in (None, _data(number) * 8)
                assert all(_found(store, key) is not None for key in store.list("large/"))

        in_threads(3, lambda number: read() if number else write())
        assert len(list(store.list("large/"))) == 10

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

    def test_a_second_handle_misses_a_deleted_blob_at_once(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        other = opener()
        store.put("a/b", b"x")
        assert other.get("a/b") == b"x"
        store.delete("a/b")
        assert _found(other, "a/b") is None
        assert list(other.list()) == []
        other.close()

    def test_of_processes_that_put_one_key_exactly_one_wins(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        won = in_processes(3, _put_each, opener, self.races)
        for race in range(self.races):
            winners = [n for n, mine in enumerate(won) if mine[race]]
            assert len(winners) == 1
            assert store.get(f"race/{race}") == _data(winners[0])

    @pytest.mark.slow
    def test_of_a_hundred_in_four_processes_exactly_one_wins(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        won = in_processes(4, _put_each_in_threads, opener, HUNDRED // 4, self.races)
        for race in range(self.races):
            winners = [(n, mine[race].index(True)) for n, mine in enumerate(won) if any(mine[race])]
            assert sum(mine[race].count(True) for mine in won) == 1
            assert store.get(f"race/{race}") == _data(HUNDRED // 4 * winners[0][0] + winners[0][1])

    def test_another_process_reads_the_same_digests(
        self, store: BlobStore, opener: Callable[[], BlobStore]
    ) -> None:
        blobs = {f"digests/{size}": _of_size(size) for size in SIZES}
        for key, data in blobs.items():
            store.put(key, data)
        wanted = {key: hashlib.sha256(data).hexdigest() for key, data in blobs.items()}
        assert in_processes(1, _digests, opener, list(blobs)) == [wanted]

    @pytest.mark.parametrize("kills", [2, pytest.param(30, marks=pytest.mark.slow)])
    def test_a_killed_writer_leaves_what_it_stored_and_nothing_half(
        self, store: BlobStore, opener: Callable[[], BlobStore], kills: int
    ) -> None:
        for kill in range(kills):
            stored = killed(2 + kill % 7, _put_until_killed, opener, f"kill/{kill}")
            here = opener()
            assert set(stored) <= set(here.list(f"kill/{kill}/"))
            assert all(here.get(key) == _large(key) for key in here.list(f"kill/{kill}/"))
            next_one = f"kill/{kill}/{len(stored)}"
            assert here.put(next_one, _large(next_one)) in (True, False)
            assert store.get(next_one) == _large(next_one)
            here.close()


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


def _put_each_in_threads(
    number: int, opener: Callable[[], BlobStore], threads: int, races: int
) -> list[list[bool]]:
    """For each race and each thread, whether it won."""
    store = opener()

    def put(thread: int) -> list[bool]:
        return [store.put(f"race/{race}", _data(number * threads + thread)) for race in range(races)]

    try:
        return [list(race) for race in zip(*in_threads(threads, put), strict=True)]
    finally:
        store.close()


def _digests(_: int, opener: Callable[[], BlobStore], keys: list[str]) -> dict[str, str]:
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
        store.put(key, _large(key))
        report(key)


def _found(store: BlobStore, key: str) -> bytes | None:
    try:
        return store.get(key)
    except NotFound:
        return None


def _large(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest() * 32_768


def _of_size(size: int) -> bytes:
    return (hashlib.sha512(str(size).encode()).digest() * (size // 64 + 1))[:size]


def _data(number: int) -> bytes:
    """64 KiB that tell their writer, and whether they are whole."""
    return hashlib.sha256(bytes([number])).digest() * 2048
