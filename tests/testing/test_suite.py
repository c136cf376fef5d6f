"""A test that a store cannot pass is declared, and pytest reports it with the reason."""

import subprocess
import sys
from pathlib import Path

STORE = """
import pytest
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.testing.blobs import BlobStoreSuite

class Overwriting(MemoryBlobs):
    def put(self, key, data):
        self.delete(key)
        return super().put(key, data)

class TestMine(BlobStoreSuite):
    known_failures = {DECLARED}

    @pytest.fixture
    def store(self):
        return Overwriting()
"""
FIRST_PUT_TEST = "test_a_second_put_returns_false_and_changes_nothing"
DECLARATION_TEST = "test_known_failures_name_existing_tests_and_have_reasons"


def run_suite(folder: Path, declared: dict[str, str]) -> str:
    """What pytest says of two laws for a store that overwrites."""
    file = folder / "test_mine.py"
    file.write_text(STORE.replace("{DECLARED}", repr(declared)))
    command = [sys.executable, "-m", "pytest", "-rx", "-q", "-p", "no:cacheprovider", str(file)]
    done = subprocess.run(
        [*command, "-k", f"{FIRST_PUT_TEST} or {DECLARATION_TEST}"],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_a_declared_failure_is_reported_as_expected_with_its_reason(tmp_path: Path) -> None:
    output = run_suite(tmp_path, {FIRST_PUT_TEST: "it has no condition to write on"})
    assert "declared: it has no condition to write on" in output
    assert "1 passed" in output
    assert "1 xfailed" in output


def test_an_undeclared_failure_fails(tmp_path: Path) -> None:
    assert "1 failed, 1 passed" in run_suite(tmp_path, {})


def test_declaring_an_unknown_test_fails(tmp_path: Path) -> None:
    assert "2 failed" in run_suite(tmp_path, {"test_of_something": "why not"})
