"""Blobs of a cloud, kept on this machine as well: read once from there, then from the disk.

What may go wrong here costs another read from the cloud, never an answer: an entry that does not match
its digest is fetched again, and a full or forbidden disk only means that nothing is kept. The one thing
that must work is to let a blob go, since `forget` promises that no byte of it is left on this machine.
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

LASTS = 24 * 3600
"""Seconds that an entry is used: then at the latest a blob deleted by another machine is missed here."""

_DIGEST = 32
_DRAFT = ".draft-"
_LOCK = ".lock"


class CachedBlobs:
    """Any blob store, and copies of what was read, in a folder that processes of this machine share.

    An entry is one file, named by the SHA-256 of the store's name and the blob's key: the blob's digest
    and the blob. It comes into being by a rename, so it is whole or absent.
    When the copies have more than `limit` bytes, those go that were not used for the longest time. The
    folder may be deleted at any time.

    What another machine deletes may still be read here until its copy is `LASTS` seconds old: blobs are
    immutable, so it is the right one all the same.
    """

    def __init__(self, blobs: BlobStore, name: str, folder: Path, limit: int) -> None:
        self._blobs = blobs
        self._name = name
        self._root = folder.absolute()
        self._limit = limit
        self._make_room()

    def put(self, key: str, data: bytes) -> bool:
        return self._blobs.put(key, data)

    def get(self, key: str) -> bytes:
        check_key(key)
        entry = self._entry(key)
        kept = _read(entry)
        if kept is not None:
            return kept
        with self._locked(entry, fcntl.LOCK_SH):  # no copy may come into being while its blob is deleted
            data = self._blobs.get(key)
            self._keep(entry, data)
        return data

    def list(self, prefix: str = "") -> Iterator[str]:
        return self._blobs.list(prefix)

    def delete(self, key: str) -> None:
        """The copy goes first: were we killed in between, the blob would be there to delete again."""
        check_key(key)
        entry = self._entry(key)
        with self._locked(entry, fcntl.LOCK_EX):
            try:
                with suppress(NotADirectoryError):  # then nothing is kept at all
                    entry.unlink(missing_ok=True)
            except OSError as error:
                raise store_error(f"remove the copy of {key}", self._root, error) from None
            self._blobs.delete(key)

    def close(self) -> None:
        self._blobs.close()

    def _entry(self, key: str) -> Path:
        name = hashlib.sha256(f"{self._name}\n{key}".encode()).hexdigest()
        return self._root / name[:2] / name

    def _keep(self, entry: Path, data: bytes) -> None:
        if _DIGEST + len(data) <= self._limit:
            with suppress(OSError):
                _write(entry, data)
                self._make_room()

    def _make_room(self) -> None:
        """Remove what is too old, and of the rest what was used longest ago, down to the limit."""
        total = 0
        for file, found in sorted(_files(self._root), key=lambda f: f[1].st_atime_ns, reverse=True):
            total += found.st_size
            if total > self._limit or not _is_fresh(found):
                with suppress(OSError):
                    file.unlink()

    @contextmanager
    def _locked(self, entry: Path, how: int) -> Iterator[None]:
        """Entries of one folder share a lock; where there can be no lock, there can be no new entry."""
        lock = _open_lock(entry.parent)
        try:
            if lock is not None:
                fcntl.flock(lock, how)
            yield
        finally:
            if lock is not None:
                os.close(lock)


def _open_lock(folder: Path) -> int | None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return None


def _read(entry: Path) -> bytes | None:
    """The blob of an entry, which counts as used now; None unless it is there, whole and fresh."""
    try:
        with entry.open("rb") as opened:
            found = os.fstat(opened.fileno())
            digest, data = opened.read(_DIGEST), opened.read()
            if not _is_fresh(found) or hashlib.sha256(data).digest() != digest:
                return None
            with suppress(OSError):
                os.utime(opened.fileno(), ns=(time.time_ns(), found.st_mtime_ns))
            return data
    except OSError:
        return None


def _write(entry: Path, data: bytes) -> None:
    draft = entry.parent / f"{_DRAFT}{uuid.uuid4().hex}"
    try:
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "wb") as opened:
            opened.write(hashlib.sha256(data).digest())
            opened.write(data)
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)


def _files(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Entries, and drafts that killed writers left or others are writing."""
    for file in root.glob("*/*"):
        if file.name != _LOCK:
            with suppress(OSError):
                yield file, file.stat(follow_symlinks=False)


def _is_fresh(found: os.stat_result) -> bool:
    """A file's time of change is when its blob was fetched, that of access when it was used."""
    return 0 <= time.time() - found.st_mtime < LASTS
