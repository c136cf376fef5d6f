"""A cache of a cloud's blobs on this machine: read once from the cloud, then from the disk.

Failures of the cache cost another read from the cloud and never a wrong result: an entry that does not
match its digest is fetched again, and on a full or read-only disk nothing is cached. Only deletion has
to succeed, because `forget` promises that no byte of a deleted blob stays on this machine.
"""

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ouroboros.stores.blobs.base import BlobStore, check_key
from ouroboros.stores.faults import store_error

MAX_AGE_SECONDS = 24 * 3600
"""Seconds for which an entry is used. It bounds how long a blob that another machine deleted can still
be read here."""

_DIGEST_BYTES = 32
_DRAFT_PREFIX = ".draft-"
_LOCK_NAME = ".lock"


class CachedBlobs:
    """A blob store with a read cache in a folder that the processes of this machine share.

    An entry is one file, named by the SHA-256 of the store's name and the blob's key. It holds the
    blob's digest and the blob. A rename creates it, so it is complete or absent. When the entries exceed
    `limit` bytes, the least recently used ones are removed. The folder may be deleted at any time.

    A blob that another machine deleted can be read here until its copy is `MAX_AGE_SECONDS` old. Blobs
    are immutable, so the copy is still correct.
    """

    def __init__(self, blobs: BlobStore, name: str, folder: Path, limit: int) -> None:
        self._blobs = blobs
        self._name = name
        self._root = folder.absolute()
        self._limit = limit
        self._evict()

    def put(self, key: str, data: bytes) -> bool:
        return self._blobs.put(key, data)

    def get(self, key: str) -> bytes:
        check_key(key)
        entry = self._entry_path(key)
        cached = _read_entry(entry)
        if cached is not None:
            return cached
        with self._lock_entries(entry, fcntl.LOCK_SH):  # no copy may appear during a deletion
            data = self._blobs.get(key)
            self._store_copy(entry, data)
        return data

    def list(self, prefix: str = "") -> Iterator[str]:
        return self._blobs.list(prefix)

    def delete(self, key: str) -> None:
        """Delete the copy first: if the process is killed in between, the blob can be deleted again."""
        check_key(key)
        entry = self._entry_path(key)
        with self._lock_entries(entry, fcntl.LOCK_EX):
            try:
                with suppress(NotADirectoryError):  # the cache folder is a file, so nothing is cached
                    entry.unlink(missing_ok=True)
            except OSError as error:
                raise store_error(f"remove the copy of {key}", self._root, error) from None
            self._blobs.delete(key)

    def remove_drafts(self) -> int:
        return self._blobs.remove_drafts()

    def close(self) -> None:
        self._blobs.close()

    def _entry_path(self, key: str) -> Path:
        name = hashlib.sha256(f"{self._name}\n{key}".encode()).hexdigest()
        return self._root / name[:2] / name

    def _store_copy(self, entry: Path, data: bytes) -> None:
        if _DIGEST_BYTES + len(data) <= self._limit:
            with suppress(OSError):
                _write_entry(entry, data)
                self._evict()

    def _evict(self) -> None:
        """Remove expired entries, and the least recently used ones above the limit."""
        total = 0
        entries = sorted(_list_entries(self._root), key=lambda entry: entry[1].st_atime_ns, reverse=True)
        for file, status in entries:
            total += status.st_size
            if total > self._limit or not _is_fresh(status):
                with suppress(OSError):
                    file.unlink()

    @contextmanager
    def _lock_entries(self, entry: Path, operation: int) -> Iterator[None]:
        """Lock the entries of one folder.

        Where no lock can be created, no entry can be created either.
        """
        lock = _open_lock(entry.parent)
        try:
            if lock is not None:
                fcntl.flock(lock, operation)
            yield
        finally:
            if lock is not None:
                os.close(lock)


def _open_lock(folder: Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _read_entry(entry: Path) -> bytes | None:
    """Return an entry's blob and mark it as used; None unless it exists, is intact and is fresh."""
    try:
        with entry.open("rb") as opened:
            status = os.fstat(opened.fileno())
            digest, data = opened.read(_DIGEST_BYTES), opened.read()
            if not _is_fresh(status) or hashlib.sha256(data).digest() != digest:
                return None
            with suppress(OSError):
                os.utime(opened.fileno(), ns=(time.time_ns(), status.st_mtime_ns))
            return data
    except OSError:
        return None


def _write_entry(entry: Path, data: bytes) -> None:
    draft = entry.parent / f"{_DRAFT_PREFIX}{uuid.uuid4().hex}"
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(hashlib.sha256(data).digest())
            opened.write(data)
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)


def _list_entries(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield entries, and the drafts of running and killed writers."""
    for file in root.glob("*/*"):
        if file.name != _LOCK_NAME:
            with suppress(OSError):
                yield file, file.stat(follow_symlinks=False)


def _is_fresh(status: os.stat_result) -> bool:
    """Whether an entry is young enough. Its modification time is when it was fetched, its access time
    when it was last used."""
    return 0 <= time.time() - status.st_mtime < MAX_AGE_SECONDS
