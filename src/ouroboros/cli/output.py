"""What the command line writes: results to stdout, everything about the work itself to stderr."""

import json
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import OuroborosError


class Output:
    """Plain text or, with `as_json`, one JSON value. rich is imported for a live terminal only."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.live = sys.stderr.isatty()

    def result(self, value: Any, *lines: str) -> None:
        """The verb's result: `value` for programs, `lines` for people."""
        if self.as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False))
        else:
            print("\n".join(lines))

    def piece(self, text: str) -> None:
        """A part of an answer, as it comes."""
        print(text, end="", flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        """Columns wide enough for their cells."""
        widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        )

    def note(self, text: str) -> None:
        """Something to know about the work; not part of the result."""
        print(text, file=sys.stderr)

    def next_step(self, *words: str) -> None:
        """The command to type next."""
        if not self.as_json:
            print(f"\nNext: {program_name()} {shlex.join(words)}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Say what is being waited for."""
        if not self.live:
            self.note(f"{text} ...")
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(f"{text} ..."):
            yield

    def error(self, error: OuroborosError) -> None:
        """One line, or with `as_json` one JSON object, on stderr."""
        if self.as_json:
            value = {"code": error.code, "message": error.message, "hint": error.hint}
            self.note(json.dumps({"error": value}, ensure_ascii=False))
        else:
            self.note(f"Error: {' '.join(str(error).split())}")


def program_name() -> str:
    """How this program was called, so that a command can be copied from its output."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return "python -m ouroboros"
    installed = shutil.which("ouroboros")
    if installed and Path(installed).resolve() == path.resolve():
        return "ouroboros"
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return "ouroboros"
