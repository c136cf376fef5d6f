"""Operating system errors as `StoreError`s with a hint, and retries of transient failures."""

import errno
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from ouroboros.domain.errors import StoreError

T = TypeVar("T")

_PAUSES = (0.1, 0.3, 0.9, 2.0, 4.0, 8.0)
"""Seconds between attempts. Together they last about as long as a server takes to restart."""

PATIENCE = 60.0
"""Seconds after which `retry` gives up, so that a server whose requests time out does not block for
minutes."""

_FULL = ("the disk is full", "Free some space there and try again.")
_FORBIDDEN = ("you may not write there", "Check its owner and permissions, or use another --store.")
_READ_ONLY = ("its disk is read-only", "Use another --store, or mount the disk for writing.")
_BROKEN = ("the disk reports an error", "Check the disk, and restore from a backup if it is damaged.")
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: ("a file would be larger than the limit", "Raise the limit (ulimit -f)."),
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EROFS: _READ_ONLY,
    errno.EIO: _BROKEN,
    errno.ELOOP: ("a symbolic link is in the place of a file", "Remove it; links are not followed."),
    errno.ENOTDIR: ("a file is in the place of a folder", "Remove it, or use another --store."),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n)."),
}


def store_error(action: str, folder: Path, error: OSError) -> StoreError:
    """A `StoreError` for an `OSError` that was raised while doing `action`, like "store a/b"."""
    explanation = _REASONS.get(error.errno or 0)
    reason, hint = explanation or (error.strerror or str(error), "Check the folder and its disk.")
    return StoreError(f"Could not {action} in {folder}: {reason}.", hint=hint)


def retry(operation: Callable[[], T], is_transient: Callable[[Exception], bool]) -> T:
    """Call `operation`, again after growing pauses while it raises an error that `is_transient`.

    Raises the last error after seven attempts or `PATIENCE` seconds.
    """
    started_at = time.monotonic()
    for pause in _PAUSES:
        try:
            return operation()
        except Exception as error:
            if not is_transient(error) or time.monotonic() - started_at > PATIENCE:
                raise
        time.sleep(pause)
    return operation()
