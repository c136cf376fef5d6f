"""What a store keeps is for its owner's eyes, whatever the umask."""

import os
import stat
from pathlib import Path

import pytest


@pytest.fixture
def open_umask():
    """The umask that lets everybody read."""
    previous = os.umask(0o022)
    yield
    os.umask(previous)


def modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder.parent)): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *folder.rglob("*"))
    }


def test_stores_and_backups_are_private(cli, rows, home, open_umask):
    cli("create", "tickets")
    cli("train", "tickets", rows)
    cli("backup", home / "copy.zip")
    for path, mode in modes(home / "ouroboros-store").items():
        assert mode & 0o077 == 0, f"{path} has mode {mode:o}"
    assert stat.S_IMODE((home / "copy.zip").stat().st_mode) == 0o600
