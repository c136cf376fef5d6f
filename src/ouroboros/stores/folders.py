"""Folders that survive a power cut."""

import errno
import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents for their owner alone, and sync the parent of each."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for created in reversed(missing):
        created.mkdir(mode=0o700, exist_ok=True)
    if not folder.is_dir():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
    for created in missing:
        descriptor = os.open(created.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
