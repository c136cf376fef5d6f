"""The cache: always correct, within its limit, and without entries of deleted blobs."""

import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores.blobs import cache
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.blobs.cache import CachedBlobs
from ouroboros.stores.blobs.files import FileBlobs
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.open import cached_blobs, open_blobs
from ouroboros.testing.blobs import SharedBlobStoreSuite
from ouroboros.testing.processes import run_in_processes

KEYS = ("a/one", "a/two", "b/three", "c/four")


class CachedBlobsOpener:
    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit

    def __call__(self) -> CachedBlobs:
        stored = FileBlobs(self._folder / "stored")
        return CachedBlobs(stored, "mine", self._folder / "copies", self._limit)


class TestRoomy(SharedBlobStoreSuite):
    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], BlobStore]:
        return CachedBlobsOpener(tmp_path, 2**30)


@pytest.mark.slow
class TestCrowded(SharedBlobStoreSuite):
    """Entries are evicted all the time; a short form is below, in processes that evict each other's."""

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], BlobStore]:
        return CachedBlobsOpener(tmp_path, 100_000)


class OneCacheEachOpener(CachedBlobsOpener):
    """Each handle has a cache of its own, as on another machine."""

    def __call__(self) -> CachedBlobs:
        stored = FileBlobs(self._folder / "stored")
        return CachedBlobs(stored, "mine", self._folder / uuid.uuid4().hex, self._limit)


class TestManyMachines(SharedBlobStoreSuite):
    known_failures: ClassVar = {
        "test_a_second_handle_sees_a_deletion_at_once": "another machine's copy lasts up to a day"
    }

    @pytest.fixture
    def opener(self, tmp_path: Path) -> Callable[[], BlobStore]:
        return OneCacheEachOpener(tmp_path, 2**30)


class CountingBlobs(MemoryBlobs):
    """Counts reads."""

    reads = 0

    def get(self, key: str) -> bytes:
        self.reads += 1
        return super().get(key)


@pytest.fixture
def stored() -> CountingBlobs:
    blobs = CountingBlobs()
    for key in KEYS:
        blobs.put(key, key.encode() * 100)
    return blobs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "copies"


@pytest.fixture
def cached(stored: CountingBlobs, folder: Path) -> CachedBlobs:
    return CachedBlobs(stored, "s3://mine", folder, 2**20)


def list_copies(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and f.name != ".lock"]


def test_a_blob_is_read_from_its_store_once(
    cached: CachedBlobs, stored: CountingBlobs, folder: Path
) -> None:
    assert [cached.get("a/one") for _ in range(3)] == [b"a/one" * 100] * 3
    assert CachedBlobs(stored, "s3://mine", folder, 2**20).get("a/one") == b"a/one" * 100
    assert stored.reads == 1


def test_another_store_has_its_own_entries(cached: CachedBlobs, folder: Path) -> None:
    cached.get("a/one")
    other = MemoryBlobs()
    other.put("a/one", b"another")
    assert CachedBlobs(other, "s3://other", folder, 2**20).get("a/one") == b"another"


def _corrupt_last_byte(file: Path) -> None:
    file.write_bytes(bytes([*file.read_bytes()[:-1], 0]))


@pytest.mark.parametrize(
    "spoil",
    [
        _corrupt_last_byte,
        lambda f: os.truncate(f, 40),
        lambda f: os.truncate(f, 0),
        lambda f: f.unlink(),
    ],
)
def test_a_corrupt_entry_is_fetched_again_and_replaced(
    cached: CachedBlobs, stored: CountingBlobs, folder: Path, spoil: Callable[[Path], None]
) -> None:
    cached.get("a/one")
    spoil(list_copies(folder)[0])
    assert cached.get("a/one") == b"a/one" * 100
    assert cached.get("a/one") == b"a/one" * 100
    assert stored.reads == 2


def test_deleting_a_blob_removes_its_entry(cached: CachedBlobs, folder: Path) -> None:
    cached.get("a/one")
    cached.get("a/two")
    cached.delete("a/one")
    assert len(list_copies(folder)) == 1
    assert not any(b"a/one" in f.read_bytes() for f in list_copies(folder))
    with pytest.raises(NotFound):
        cached.get("a/one")


def test_a_read_during_a_deletion_leaves_no_entry(folder: Path) -> None:
    reading, deleting = threading.Event(), threading.Event()

    class Slow(MemoryBlobs):
        def get(self, key: str) -> bytes:
            data = super().get(key)
            reading.set()
            deleting.wait(10)
            time.sleep(0.05)
            return data

    stored = Slow()
    stored.put("a", b"secret")
    cached = CachedBlobs(stored, "s3://mine", folder, 2**20)
    reader = threading.Thread(target=cached.get, args=["a"])
    reader.start()
    reading.wait()
    deleting.set()
    cached.delete("a")
    reader.join()
    assert list_copies(folder) == []


def test_an_entry_that_cannot_be_removed_keeps_its_blob_and_raises(
    cached: CachedBlobs, stored: CountingBlobs, folder: Path
) -> None:
    cached.get("a/one")
    (entry,) = list_copies(folder)
    entry.unlink()
    (entry / "in the way").mkdir(parents=True)
    with pytest.raises(StoreError, match="remove the copy of a/one"):
        cached.delete("a/one")
    assert "a/one" in list(stored.list())


def test_the_least_recently_used_entry_is_evicted(stored: CountingBlobs, folder: Path) -> None:
    cached = CachedBlobs(stored, "s3://mine", folder, 1800)  # three of them
    for key in ("a/one", "a/two", "b/three"):
        cached.get(key)
        time.sleep(0.01)
    cached.get("a/one")
    time.sleep(0.01)
    cached.get("c/four")
    assert sum(f.stat().st_size for f in list_copies(folder)) <= 1800
    before = stored.reads
    cached.get("a/one")
    assert stored.reads == before
    cached.get("a/two")
    assert stored.reads == before + 1


def test_a_blob_larger_than_the_limit_is_not_cached(stored: CountingBlobs, folder: Path) -> None:
    cached = CachedBlobs(stored, "s3://mine", folder, 600)
    stored.put("large", bytes(600))
    cached.get("a/one")
    cached.get("large")
    assert len(list_copies(folder)) == 1


def test_a_lower_limit_applies_from_the_next_start(
    cached: CachedBlobs, stored: CountingBlobs, folder: Path
) -> None:
    for key in KEYS:
        cached.get(key)
    CachedBlobs(stored, "s3://mine", folder, 700)
    assert len(list_copies(folder)) == 1


def test_an_expired_entry_is_not_used_and_is_removed_at_the_next_start(
    cached: CachedBlobs, stored: CountingBlobs, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached.get("a/one")
    stored.delete("a/one")  # by another machine
    assert cached.get("a/one") == b"a/one" * 100
    monkeypatch.setattr(cache, "MAX_AGE_SECONDS", 0)
    with pytest.raises(NotFound):
        cached.get("a/one")
    CachedBlobs(stored, "s3://mine", folder, 2**20)
    assert list_copies(folder) == []


def test_the_folder_may_be_deleted_at_any_time(
    cached: CachedBlobs, stored: CountingBlobs, folder: Path
) -> None:
    cached.get("a/one")
    shutil.rmtree(folder)
    assert cached.get("a/one") == b"a/one" * 100
    cached.get("a/one")
    assert stored.reads == 2
    shutil.rmtree(folder)
    cached.delete("a/one")


def test_blobs_are_read_without_a_usable_cache_folder(stored: CountingBlobs, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    cached = CachedBlobs(stored, "s3://mine", tmp_path / "file", 2**20)
    assert cached.get("a/one") == b"a/one" * 100
    cached.delete("a/one")
    assert "a/one" not in list(stored.list())


def test_only_the_owner_can_read_entries(cached: CachedBlobs, folder: Path) -> None:
    cached.get("a/one")
    (entry,) = list_copies(folder)
    assert entry.stat().st_mode & 0o077 == 0
    assert entry.parent.stat().st_mode & 0o077 == 0


def test_processes_that_evict_each_others_entries_read_correct_blobs(tmp_path: Path) -> None:
    opener = CachedBlobsOpener(tmp_path, 40_000)
    for number in range(8):
        opener().put(f"blob/{number}", bytes([number]) * 10_000)
    run_in_processes(3, _read_all, opener)
    assert sum(f.stat().st_size for f in list_copies(tmp_path / "copies")) <= 40_000


def _read_all(number: int, opener: CachedBlobsOpener) -> None:
    cached = opener()
    for n in range(100):
        which = (n * (number + 3)) % 8
        assert cached.get(f"blob/{which}") == bytes([which]) * 10_000


def test_only_clouds_are_cached(tmp_path: Path) -> None:
    for url in ("memory:", f"file://{tmp_path}/blobs"):
        blobs = open_blobs(url)
        assert cached_blobs(blobs, url, 2**20) is blobs
    assert cached_blobs(blobs, "s3://mine", 0) is blobs


def test_entries_are_stored_in_the_users_cache_folder(
    stored: CountingBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = cached_blobs(stored, "gs://mine/x", 2**20)
    cached.get("a/one")
    assert len(list_copies(tmp_path / "ouroboros" / "blobs")) == 1
