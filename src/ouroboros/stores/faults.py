"""What an operating system's error means to the owner of a store, and what is worth trying again."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ouroboros.domain.errors import StoreError

T = TypeVar("T")

_PAUSES = (0.1, 0.3, 0.9, 2.0, 4.0, 8.0)
"""Seconds between tries: about as long as a server takes to restart."""

PATIENCE = 60.0
"""Seconds after which nothing is tried again: a server that lets tries time out is not waited for."""

_FULL = ("the disk is full", "Free some space there and try again.")
_FORBIDDEN = ("it may not be written", "Check who owns it and its permissions, or use another --store.")
_READ_ONLY = ("its disk is read-only", "Use another --store, or mount the disk for writing.")
_BROKEN = ("the disk reports an error", "Check the disk; what was stored before may be on a backup.")
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("a file would be larger than is allowed", "Raise the limit (ulimit -f)."),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _READ_ONLY,
    errno.EIO: _BROKEN,
    errno.ELOOP: ("a link lies where a file of the store belongs", "Remove it; links are not followed."),
    errno.ENOTDIR: ("something that is no folder lies in the way", "Remove it, or use another --store."),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n)."),
}


def store_error(action: str, folder: Path, error: OSError) -> StoreError:
    """One clear error from any `OSError`; `action` was being done, like "store a/b"."""
    explanation = _REASONS.get(error.errno or 0)
    reason, hint = explanation or (error.strerror or str(error), "Check the folder and its disk.")
    return StoreError(f"Could not {action} in {folder}: {reason}.", hint=hint)


def retry(operation: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """`operation()`, repeated with growing pauses while it fails with an error that is `is_transient`."""
    started_at = time.monotonic()
    for pause in _PAUSES:
        try:
            return operation()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - started_at > PATIENCE:
                raise
        time.sleep(pause)
    return operation()
