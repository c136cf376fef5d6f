"""Blobs as plain files: durable, put-if-absent, readable by other programs."""

import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ouroboros.domain.errors import NotFound
from ouroboros.stores.blobs.base import check_key
from ouroboros.stores.faults import store_error
from ouroboros.stores.folders import make_folder

_DRAFTS_NAME = ".tmp"
_STALE_SECONDS = 24 * 3600
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_PUT_ATTEMPTS = 8


class FileBlobs:
    """A folder of files named by their keys.

    A blob is written to a temporary file, synced and then linked to its name, which fails if the name
    exists. So a blob is complete or absent, even after a crash. Every folder on its path is synced
    before `put` returns, also when another writer stored the blob. Symbolic links in the store are not
    followed.
    """

    def __init__(self, folder: Path) -> None:
        self._root = folder.absolute()
        with self._convert_errors("open the blob store"):
            make_folder(self._root / _DRAFTS_NAME)
            self._remove_stale_drafts()

    def put(self, key: str, data: bytes) -> bool:
        *folders, name = _split_key(key)
        with self._convert_errors(f"store {key}"):
            for _ in range(_PUT_ATTEMPTS - 1):
                with suppress(FileNotFoundError):  # a concurrent `delete` removed the empty folder
                    return self._put_once(folders, name, data)
            return self._put_once(folders, name, data)

    def get(self, key: str) -> bytes:
        *folders, name = _split_key(key)
        with self._convert_errors(f"read {key}"), ExitStack() as stack:
            try:
                folder = self._open_folders(stack, folders)[-1]
                file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
            except FileNotFoundError:
                raise NotFound(
                    f"There is no blob {key}.", hint="It was deleted, or never stored."
                ) from None
            with os.fdopen(file, "rb") as opened:
                return opened.read()

    def list(self, prefix: str = "") -> Iterator[str]:
        folder, slash, _ = prefix.rpartition("/")
        if folder:
            check_key(folder)
        with self._convert_errors("list the blobs"):
            yield from _walk_keys(self._root / folder, folder + slash, prefix)

    def delete(self, key: str) -> None:
        *folders, name = _split_key(key)
        with self._convert_errors(f"delete {key}"), ExitStack() as stack:
            try:
                chain = self._open_folders(stack, folders)
                os.unlink(name, dir_fd=chain[-1])
            except FileNotFoundError:
                return
            if folders:
                with suppress(OSError):  # it still holds other blobs
                    os.rmdir(folders[-1], dir_fd=chain[-2])
            _sync_folders(chain)

    def remove_drafts(self) -> int:
        """Remove the temporary files of writers that are dead: a living one holds a lock on its file."""
        removed = 0
        with self._convert_errors("remove drafts"), ExitStack() as stack:
            drafts = self._open_folders(stack, [_DRAFTS_NAME], create=True)[-1]
            for name in [entry.name for entry in os.scandir(drafts)]:
                with suppress(OSError):  # it is being written, or another program was faster
                    _remove_unlocked(name, drafts)
                    removed += 1
        return removed

    def close(self) -> None:
        """Nothing to release."""

    def _put_once(self, folders: Sequence[str], name: str, data: bytes) -> bool:
        with ExitStack() as stack:
            chain = self._open_folders(stack, folders, create=True)
            stored = not _is_file(name, chain[-1]) and self._link_new(name, chain[-1], data)
            _sync_folders(chain)
            return stored

    def _link_new(self, name: str, folder: int, data: bytes) -> bool:
        """Write a temporary file and link it to `name`. Returns False if `name` exists."""
        draft = uuid.uuid4().hex
        with ExitStack() as stack:
            drafts = self._open_folders(stack, [_DRAFTS_NAME], create=True)[-1]
            try:
                stack.callback(os.close, _write_synced(draft, drafts, data))
                os.link(draft, name, src_dir_fd=drafts, dst_dir_fd=folder)
            except FileExistsError:
                return False
            finally:
                with suppress(OSError):
                    os.unlink(draft, dir_fd=drafts)
        return True

    def _open_folders(
        self, stack: ExitStack, folders: Sequence[str], *, create: bool = False
    ) -> Sequence[int]:
        """Open the root and each folder below it; returns their descriptors, which `stack` closes."""
        chain = [os.open(self._root, os.O_RDONLY | os.O_DIRECTORY)]
        stack.callback(os.close, chain[0])
        for name in folders:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=chain[-1])
            chain.append(os.open(name, _FOLDER_FLAGS, dir_fd=chain[-1]))
            stack.callback(os.close, chain[-1])
        return chain

    def _remove_stale_drafts(self) -> None:
        """Remove the temporary files of killed writers."""
        for file in (self._root / _DRAFTS_NAME).iterdir():
            with suppress(OSError):
                if time.time() - file.lstat().st_mtime > _STALE_SECONDS:
                    file.unlink()

    @contextmanager
    def _convert_errors(self, action: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise store_error(action, self._root, error) from error


def _split_key(key: str) -> list[str]:
    check_key(key)
    return key.split("/")


def _is_file(name: str, folder: int) -> bool:
    """Whether `name` is a regular file. Raises `OSError` if it is anything else."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise OSError(errno.ELOOP, "is not a regular file", name)
    return True


def _write_synced(name: str, folder: int, data: bytes) -> int:
    """Write a new file; returns its descriptor, which holds a lock that shows that its writer lives."""
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
    try:
        with suppress(OSError):  # without locks on this file system, a removed draft is written again
            fcntl.flock(file, fcntl.LOCK_EX)
        remaining = memoryview(data)
        while remaining:
            remaining = remaining[os.write(file, remaining) :]
        os.fsync(file)
    except BaseException:
        os.close(file)
        raise
    return file


def _remove_unlocked(name: str, folder: int) -> None:
    """Remove a file unless somebody holds a lock on it; raises `OSError` then."""
    file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=folder)
    finally:
        os.close(file)


def _sync_folders(chain: Sequence[int]) -> None:
    for folder in reversed(chain):
        os.fsync(folder)


def _walk_keys(folder: Path, base: str, prefix: str) -> Iterator[str]:
    """Yield the keys below `folder`, whose own key is `base`, in order.

    A folder sorts by its name followed by a slash, because that is what its keys start with.
    """
    try:
        entries = [(e.name + "/" * e.is_dir(follow_symlinks=False), e) for e in os.scandir(folder)]
    except (FileNotFoundError, NotADirectoryError):
        return
    for name, entry in sorted(entries, key=lambda pair: pair[0]):
        key = base + name
        if name.startswith("."):
            continue
        if name.endswith("/") and (key.startswith(prefix) or prefix.startswith(key)):
            yield from _walk_keys(Path(entry.path), key, prefix)
        elif key.startswith(prefix) and entry.is_file(follow_symlinks=False):
            yield key
