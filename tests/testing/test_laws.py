"""A law that a store cannot hold is declared, and pytest shows it with the reason."""

import subprocess
import sys
from pathlib import Path

STORE = """
import pytest
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.testing.blobs import BlobLaws

class Overwriting(MemoryBlobs):
    def put(self, key, data):
        self.delete(key)
        return super().put(key, data)

class TestMine(BlobLaws):
    lacks = {DECLARED}

    @pytest.fixture
    def store(self):
        return Overwriting()
"""
FIRST = "test_the_first_to_put_wins_and_the_second_is_told"
NAMES = "test_only_laws_that_there_are_may_be_lacking_and_with_a_reason"


def run(folder: Path, declared: dict[str, str]) -> str:
    """What pytest says of two laws for a store that overwrites."""
    file = folder / "test_mine.py"
    file.write_text(STORE.replace("{DECLARED}", repr(declared)))
    command = [sys.executable, "-m", "pytest", "-rx", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        [*command, "-k", f"{FIRST} or {NAMES}"], cwd=folder, capture_output=True, text=True
    )
    return done.stdout


def test_a_declared_law_fails_as_expected_and_says_why(tmp_path: Path) -> None:
    said = run(tmp_path, {FIRST: "it has no condition to write on"})
    assert "declared: it has no condition to write on" in said
    assert "1 passed" in said
    assert "1 xfailed" in said


def test_a_law_that_is_not_declared_fails(tmp_path: Path) -> None:
    assert "1 failed, 1 passed" in run(tmp_path, {})


def test_a_declaration_of_no_law_fails(tmp_path: Path) -> None:
    assert "2 failed" in run(tmp_path, {"test_of_something": "why not"})
