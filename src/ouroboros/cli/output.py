"""What the command line prints: results to stdout, progress and notes to stderr."""

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
        """Prints the verb's result: `value` for programs, `lines` for people."""
        if self.as_json:
            print(json.dumps(value, indent=2, ensure_ascii=False))
        else:
            print("\n".join(lines))

    def piece(self, text: str) -> None:
        """Prints a part of an answer without ending the line."""
        print(text, end="", flush=True)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        """Formats rows as aligned columns."""
        widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        )

    def note(self, text: str) -> None:
        """Prints a note that is not part of the result."""
        print(text, file=sys.stderr)

    def next_step(self, *words: str) -> None:
        """Prints the command to type next."""
        if not self.as_json:
            print(f"\nNext: {program_name()} {shlex.join(words)}")

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Shows what the program is waiting for."""
        if not self.live:
            self.note(f"{text} ...")
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(f"{text} ..."):
            yield

    def error(self, error: OuroborosError) -> None:
        """Prints an error to stderr: one line or, with `as_json`, one JSON object."""
        if self.as_json:
            value = {"code": error.code, "message": error.message, "hint": error.hint}
            self.note(json.dumps({"error": value}, ensure_ascii=False))
        else:
            self.note(f"Error: {' '.join(str(error).split())}")


def program_name() -> str:
    """Returns how this program was called, so that printed commands can be copied."""
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
