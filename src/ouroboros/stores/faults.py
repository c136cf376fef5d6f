"""What an operating system's error means to the owner of a store."""

import errno
from pathlib import Path

from ouroboros.domain.errors import StoreError

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


def store_error(what: str, folder: Path, error: OSError) -> StoreError:
    """One clear error from any `OSError`; `what` was being done, like "store a/b"."""
    known = _REASONS.get(error.errno or 0)
    reason, hint = known or (error.strerror or str(error), "Check the folder and its disk.")
    return StoreError(f"Could not {what} in {folder}: {reason}.", hint=hint)
