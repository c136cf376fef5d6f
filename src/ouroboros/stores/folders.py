"""Folders that survive a power cut."""

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents for their owner alone, and sync the parent of each."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    for created in reversed(missing):
        created.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(exist_ok=True)  # raises if a file is in the way
    for created in missing:
        descriptor = os.open(created.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
