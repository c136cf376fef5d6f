"""What the command line prints: results to stdout, progress and notes to stderr."""

import io
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import InvalidInput, OuroborosError, OutputError
from ouroboros.domain.limits import MAX_STDIN

_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that act on a terminal or reorder its text; a line's end and a tab are not among them."""


class Output:
    """Plain text or, with `as_json`, one JSON value. rich is imported for a live terminal only."""

    def __init__(self, as_json: bool = False) -> None:
        self.as_json = as_json
        self.live = sys.stderr is not None and sys.stderr.isatty()
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal may not have all characters
                stream.reconfigure(errors="backslashreplace")

    def result(self, value: Any, *lines: str) -> None:
        """Prints the verb's result: `value` for programs, `lines` for people.

        Raises `OutputError` if standard output is closed or full, and `BrokenPipeError` if its reader
        has gone.
        """
        text = format_json(value, indent=2) if self.as_json else escape_controls("\n".join(lines))
        write_result(f"{text}\n")

    def section(self, *lines: str) -> None:
        """Prints a part of a long result for people as soon as it is known, and nothing with `as_json`.

        `value` prints the same result for programs at the end. Raises as `result` does.
        """
        if not self.as_json:
            write_result(escape_controls("\n".join(lines)) + "\n")

    def value(self, value: Any) -> None:
        """Prints the result for programs of a verb that prints sections. Raises as `result` does."""
        if self.as_json:
            write_result(f"{format_json(value, indent=2)}\n")

    def piece(self, text: str) -> None:
        """Prints a part of an answer without ending the line. Raises as `result` does."""
        live = sys.stdout is not None and sys.stdout.isatty()
        write_result(escape_controls(text) if live else text)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
        """Formats rows as aligned columns."""
        header, *rows = ([escape_controls(cell) for cell in row] for row in (header, *rows))
        widths = [max(len(str(row[i])) for row in (header, *rows)) for i in range(len(header))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (header, *rows)
        )

    def note(self, text: str) -> None:
        """Prints a note that is not part of the result; a closed or full stderr does no harm."""
        write_note(f"{escape_controls(text)}\n")

    def next_step(self, *words: str) -> None:
        """Prints the command to type next."""
        if not self.as_json:
            write_result(escape_controls(f"\nNext: {program_name()} {shlex.join(words)}\n"))

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
        """Prints an error to stderr: one line and its details or, with `as_json`, one JSON object."""
        if self.as_json:
            value: dict[str, Any] = {"code": error.code, "message": error.message, "hint": error.hint}
            value |= {"details": error.details} if error.details else {}
            write_note(f"{format_json({'error': value})}\n")
        else:
            prefix = "" if error.code == "cancelled" else "Error: "
            # A word of hundreds of characters, like a pasted file, would hide what the error says.
            text = f"{prefix}{error.message} {error.hint}"
            self.note("\n  ".join(_shorten_words(line) for line in (text, *error.details)))


def _shorten_words(text: str) -> str:
    return " ".join(f"{w[:80]}..." if len(w) > 200 else w for w in text.split())


def escape_controls(text: str) -> str:
    """Shows control characters of text that came from outside, as \\x1b, instead of obeying them."""
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def format_json(value: Any, indent: int | None = None) -> str:
    """Formats a value as JSON in which every control character is escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = json.dumps(value, indent=indent, ensure_ascii=not encoding.lower().startswith("utf"))
    return _CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def write_result(text: str) -> None:
    """Writes to stdout at once, so that a full device is noticed here and not when the program ends."""
    try:
        if sys.stdout is None:
            raise ValueError("it is closed")
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_stdout()
        raise
    except (OSError, ValueError) as error:
        _discard_stdout()
        reason = error.strerror if isinstance(error, OSError) else "it is closed"
        raise OutputError(
            f"The work is done, but its result cannot be written to standard output: {reason}.",
            hint="Write it elsewhere. `ouroboros list` shows what the store has.",
        ) from None


def write_note(text: str) -> None:
    """Writes to stderr; where that is impossible, nobody would see an error either."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(text)
        sys.stderr.flush()


def _discard_stdout() -> None:
    """Makes the interpreter's last flush succeed after a write has failed."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def read_stdin(limit: int = MAX_STDIN) -> str:
    """Reads standard input to its end; raises `InvalidInput` if it is closed, not UTF-8 or too long."""
    try:
        text = sys.stdin.read(limit + 1) if sys.stdin is not None else None
        (text or "").encode()  # a terminal without a locale reads bytes that are not text as surrogates
    except (OSError, ValueError) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeError) else "cannot be read"
        raise InvalidInput(f"Standard input {reason}.", hint="Give the text as UTF-8.") from None
    if text is None:
        raise InvalidInput("Standard input is closed.", hint="Give the text as an argument.")
    if len(text) > limit:
        raise InvalidInput(
            f"Standard input has more than {limit:,} characters.", hint="Give a shorter text."
        )
    return text


def open_standard_descriptors() -> None:
    """Opens closed standard descriptors, so that no file of the store gets their numbers.

    A library that prints to descriptor 2 would write into that file.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one


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
