"""The folder of models that were fetched or converted: each is whole or absent, and made by one program.

A model is built in a folder beside its place, written to the disk, and moved there by one rename.
Programs that want the same model at the same time wait for the one that builds it. `origin.json` in a
model's folder records where it came from and the digest of each file.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ouroboros.cache import cache_folder
from ouroboros.domain.errors import ModelError
from ouroboros.models.digests import hash_file

ORIGIN = "origin.json"
_DRAFT = ".building-"


def models_folder() -> Path:
    """Where converted models are kept."""
    return cache_folder() / "models"


def get_or_build(name: str, build: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder of the model `name`; `build` fills an empty folder if there is none yet.

    `build` returns what is known of the model's origin. Raises `ModelError` when the folder cannot be
    written or the disk is full; nothing is left behind then.
    """
    folder = models_folder() / name
    if is_whole(folder):
        return folder
    try:
        with _hold_lock(name):
            if not is_whole(folder):  # another program may have built it while this one waited
                _build(folder, build)
    except OSError as error:
        raise _cache_error(folder.parent, error) from error
    return folder


def read_origin(folder: Path) -> dict[str, Any] | None:
    """What was recorded when a model was built; None for a folder that was not built here."""
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        return origin if isinstance(origin, dict) and isinstance(origin.get("files"), dict) else None
    except (OSError, ValueError):
        return None


def is_whole(folder: Path) -> bool:
    """Whether a model was built here, and its files have the sizes that they had then."""
    origin = read_origin(folder)
    if origin is None:
        return False
    try:
        return all((folder / f).stat().st_size == r["bytes"] for f, r in origin["files"].items())
    except (OSError, TypeError, KeyError):
        return False


def _build(folder: Path, build: Callable[[Path], dict[str, Any]]) -> None:
    # 1. Drafts that killed programs left; the lock says that none of them is still being written.
    for leftover in folder.parent.glob(f"{_DRAFT}{folder.name}"):
        shutil.rmtree(leftover, ignore_errors=True)
    draft = folder.parent / f"{_DRAFT}{folder.name}"
    try:
        # 2. The model, and a record of every file in it.
        draft.mkdir()
        origin = build(draft)
        files = {p.name: {"bytes": p.stat().st_size, "sha256": hash_file(p)} for p in _files(draft)}
        record = json.dumps({"format": 1, **origin, "files": files}, indent=2, ensure_ascii=False)
        (draft / ORIGIN).write_text(record + "\n", encoding="utf-8")

        # 3. On the disk before it has its name, so that a power cut leaves no half model.
        for path in [*_files(draft), draft]:
            _sync(path)
        if folder.exists():  # damaged: `is_whole` refused it
            shutil.rmtree(folder)
        draft.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _hold_lock(name: str) -> Iterator[None]:
    """Held by one program at a time; the system lets go of it when the program ends, however it ends."""
    folder = models_folder()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder / f".lock-{name}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        with suppress(OSError):
            os.close(lock)


def _cache_error(folder: Path, error: OSError) -> ModelError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        why, hint = "the disk is full", "Free some space there, or name another folder: XDG_CACHE_HOME."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        why, hint = "it cannot be written", "Name a folder that can be written: XDG_CACHE_HOME."
    else:
        why, hint = error.strerror or str(error), "Check the folder and its disk."
    return ModelError(f"The model cannot be kept in {folder}: {why}.", hint=hint)
