"""Blobs as plain files: durable, put-if-absent, readable by anyone."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ouroboros.domain.errors import NotFound, StoreError
from ouroboros.stores.blobs.base import check_key

_TEMPORARY = ".tmp"
_STALE_SECONDS = 3600


class FileBlobs:
    """A folder of files named by their keys.

    A blob is written to a temporary file, synced, and linked under its name, which fails if the name is
    there: it is whole or absent, whatever happens meanwhile. Folders are synced after every change.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        with self._errors():
            _make_folders(self._folder / _TEMPORARY)
            self._sweep()

    def put(self, key: str, data: bytes) -> bool:
        path = self._path(key)
        with self._errors():
            if path.exists():
                return False
            _make_folders(path.parent)
            temporary = self._folder / _TEMPORARY / uuid.uuid4().hex
            try:
                _write_synced(temporary, data)
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
            return True

    def get(self, key: str) -> bytes:
        with self._errors():
            try:
                return self._path(key).read_bytes()
            except FileNotFoundError:
                raise NotFound(
                    f"There is no blob {key}.", hint="It was deleted, or never stored."
                ) from None

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._errors():
            keys = sorted(
                file.relative_to(self._folder).as_posix()
                for file in self._folder.rglob("*")
                if file.is_file() and _TEMPORARY not in file.relative_to(self._folder).parts
            )
        return (key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        path = self._path(key)
        with self._errors():
            path.unlink(missing_ok=True)
            if path.parent.is_dir():
                _sync_folder(path.parent)
            with suppress(OSError):
                path.parent.rmdir()  # only if nothing is left in it

    def close(self) -> None:
        """Nothing to release."""

    def _path(self, key: str) -> Path:
        check_key(key)
        return self._folder / key

    def _sweep(self) -> None:
        """Remove what writers left behind when they were killed."""
        for file in (self._folder / _TEMPORARY).iterdir():
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > _STALE_SECONDS:
                    file.unlink()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"The blob store at {self._folder} failed: {error.strerror or error}.",
                hint="Check that its disk has room and that you may write there.",
            ) from error


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _make_folders(folder: Path) -> None:
    """Create a folder and its parents, and make each new name durable in its parent."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        _sync_folder(made.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
