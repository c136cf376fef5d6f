"""Folders that survive a power cut."""

import os
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents, and sync the parent of each one that was created."""
    missing = [f for f in (folder, *folder.parents) if not f.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for created in missing:
        descriptor = os.open(created.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
