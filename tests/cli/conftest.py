"""The command line inside this process: quick, and its failures are seen where they happen."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ouroboros.cli.main import main


@dataclass(frozen=True)
class CommandResult:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line that reports the error."""
        (line,) = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert self.err.splitlines()[-1] == line
        assert "Traceback" not in self.err
        return line


Cli = Callable[..., CommandResult]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and an environment without settings."""
    for name in [n for n in os.environ if n.startswith("OUROBOROS_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(
    home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cli:
    """Run `ouroboros` with these arguments on the tiny model."""
    monkeypatch.setenv("OUROBOROS_MODEL", str(tiny))

    def run(*arguments: object) -> CommandResult:
        capsys.readouterr()
        code = main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return CommandResult(code, captured.out, captured.err)

    return run


@pytest.fixture
def rows(home: Path) -> Path:
    """Three examples that fit the tiny model."""
    path = home / "rows.jsonl"
    lines = [
        {"prompt": "where is my parcel", "completion": "delivery"},
        {"input": "set an alarm", "output": "alarm", "weight": 2.0},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
