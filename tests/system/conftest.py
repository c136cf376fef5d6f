"""The program as its users run it: a process of its own, in an empty folder."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Program = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(tiny: Path) -> dict[str, str]:
    """This one, without settings but for the tiny model."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith("OUROBOROS_")}
    return {**environ, "OUROBOROS_MODEL": str(tiny), "PYTHONWARNINGS": "default"}


@pytest.fixture
def python(tmp_path: Path, environment: dict[str, str]) -> Program:
    """Run `python` with these arguments; nothing may look like a traceback."""

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        ran = subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in ran.stderr, ran.stderr
        return ran

    return run


@pytest.fixture
def ouroboros(python: Program) -> Program:
    """Run `ouroboros` with these arguments."""
    return lambda *arguments: python("-m", "ouroboros", *arguments)
