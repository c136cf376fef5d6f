"""SHA-256 of whole files, computed once and remembered until a file changes.

A digest is kept in the cache folder with the size, the inode and both times of change of each file. The
time of a change of the inode cannot be set by a program, so a file that is rewritten and given its old
time back is hashed again.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ouroboros.cache import cache_folder

_PIECE = 1 << 20
_SETTLED = 2_000_000_000
"""Nanoseconds after a change from which a file system's clock tells a further change."""


def file_digest(path: Path) -> str:
    """SHA-256 of a file's whole content, in hexadecimal."""
    return _recall_or_compute("file", [path], lambda: hash_file(path))


def weights_digest(files: Sequence[Path]) -> str:
    """One SHA-256 over the name, the size and the whole content of every file, in this order."""
    return _recall_or_compute("weights", files, lambda: _hash_weights(files))


def hash_file(path: Path) -> str:
    """As `file_digest`, read now whatever is remembered."""
    digest = hashlib.sha256()
    _feed(digest, path)
    return digest.hexdigest()


def _hash_weights(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name}:{path.stat().st_size};".encode())
        _feed(digest, path)
    return digest.hexdigest()


def _feed(digest: Any, path: Path) -> None:
    """Hash a file piece by piece: hashlib leaves the interpreter to others meanwhile."""
    piece = memoryview(bytearray(_PIECE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            digest.update(piece[:count])


def _recall_or_compute(kind: str, files: Sequence[Path], compute: Callable[[], str]) -> str:
    """`compute()`, unless it is known for these files as they are now."""
    paths = [str(path.resolve()) for path in files]
    name = hashlib.sha256("\n".join([kind, *paths]).encode()).hexdigest()
    entry = cache_folder() / "digests" / f"{name[:40]}.json"
    before = _stamps(files)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(entry.read_text())
        if known["stamps"] == before and len(known["sha256"]) == 64:
            return str(known["sha256"])
    digest = compute()
    newest = max((stamp[i] for stamp in before for i in (2, 3)), default=0)
    if _stamps(files) == before and time.time_ns() - newest > _SETTLED:
        with suppress(OSError):  # a cache that cannot be written costs time, never an answer
            _write(entry, {"stamps": before, "sha256": digest})
    return digest


def _stamps(files: Sequence[Path]) -> list[list[int]]:
    stats = [path.stat() for path in files]
    return [[s.st_size, s.st_ino, s.st_mtime_ns, s.st_ctime_ns, s.st_dev] for s in stats]


def _write(entry: Path, value: dict[str, Any]) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = entry.with_name(f".draft-{uuid.uuid4().hex}")
    try:
        draft.write_text(json.dumps(value))
        draft.replace(entry)
    finally:
        draft.unlink(missing_ok=True)
