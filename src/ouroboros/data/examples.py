"""Read training examples from JSON lines, in the formats that other programs write.

A file has one JSON object a line, in UTF-8. The keys tell which of three formats an example has; each
may also have a `weight`:

    {"prompt": ..., "completion": ...}      the format of TRL
    {"input": ..., "output": ...}           the fields of `TrainingExample`
    {"messages": [{"role", "content"}...]}  a conversation; the output is its last turn

A prompt or input is a text or a list of messages. A completion or output is a text or a list of one
assistant message.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.data import Message, Prompt, TrainingExample
from ouroboros.domain.errors import InvalidExample, InvalidFile
from ouroboros.domain.limits import MAX_LINE

_SHAPES = (("prompt", "completion"), ("input", "output"), ("messages",))
_KNOWN = ("prompt", "completion", "input", "output", "messages", "weight")
_SHAPES_HINT = 'Give "prompt" and "completion", "input" and "output", or "messages".'
_BOM = b"\xef\xbb\xbf"
_EXAMPLES = f"examples. Write one JSON object a line. {_SHAPES_HINT}"


class Checkable(Protocol):
    """A value read from a line. `check` raises `InvalidExample` if the value is not valid."""

    def check(self) -> None: ...


C = TypeVar("C", bound=Checkable)


def read_examples(path: Path) -> list[TrainingExample]:
    """Read all examples of a file.

    Raises:
        InvalidFile: a line is not a valid example, with the file and the line number; or the file cannot
            be read or has no examples.
    """
    return read_rows(path, _parse_example, _EXAMPLES)


def parse_examples(file: BinaryIO, name: str) -> list[TrainingExample]:
    """As `read_examples`, from an open file that errors call `name`."""
    return parse_rows(file, name, _parse_example, _EXAMPLES)


def read_rows(path: Path, parse: Callable[[Mapping[str, Any]], C], contents: str) -> list[C]:
    """Read a file of JSON lines and convert each line's object with `parse`.

    `contents` says in errors what the file should have: a noun, a full stop and a hint.
    """
    try:
        with path.open("rb") as file:
            return parse_rows(file, str(path), parse, contents)
    except OSError as error:
        raise InvalidFile(
            f"{path} cannot be read: {error.strerror}.", hint="Give a file of JSON lines."
        ) from error


def parse_rows(
    file: BinaryIO, name: str, parse: Callable[[Mapping[str, Any]], C], contents: str
) -> list[C]:
    """As `read_rows`, from an open file that errors call `name`."""
    rows = [_read_row(line, parse, f"{name}, line {n}") for n, line in _iter_lines(file, name)]
    if not rows:
        noun, _, hint = contents.partition(". ")
        raise InvalidFile(f"{name} has no {noun}.", hint=hint)
    return rows


def _iter_lines(file: BinaryIO, path: str) -> Iterator[tuple[int, bytes]]:
    """Yield the lines that are not blank, numbered from 1, without a byte order mark."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise InvalidFile(
                f"{path}, line {number} is longer than {MAX_LINE // 2**20} MiB.",
                hint="Check that the file has one JSON object a line.",
            )
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield number, line


def _read_row(line: bytes, parse: Callable[[Mapping[str, Any]], C], location: str) -> C:
    try:
        row = parse(_parse_json(line))
        row.check()
    except InvalidExample as error:
        raise InvalidFile(f"{location}: {error.message}", hint=error.hint) from error
    return row


def _parse_json(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidExample("The line is not UTF-8.", hint="Save the file as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidExample(
            f"The line is not JSON: {problem}{column}.", hint="Write one JSON object a line."
        ) from error
    if not isinstance(row, dict):
        raise InvalidExample("The line is not a JSON object.", hint=_SHAPES_HINT)
    return row


def _parse_example(row: Mapping[str, Any]) -> TrainingExample:
    # An example has the keys of exactly one format; anything else is a mistake to report.
    shapes = [shape for shape in _SHAPES if row.keys() & set(shape)]
    check_keys(row, _KNOWN)
    if len(shapes) != 1:
        problem = "mixes the keys of two formats" if shapes else "has no input and no output"
        raise InvalidExample(f"The example {problem}.", hint=_SHAPES_HINT)
    missing = [key for key in shapes[0] if key not in row]
    if missing:
        raise InvalidExample(f"The example has no {missing[0]!r}.", hint=_SHAPES_HINT)
    values = [row[key] for key in shapes[0]]
    prompt, output = _split_last_turn(values[0]) if len(values) == 1 else (values[0], values[1])
    return TrainingExample(parse_prompt(prompt), parse_output(output), row.get("weight", 1.0))


def _split_last_turn(messages: object) -> tuple[object, object]:
    """Split a conversation into all turns but the last, and the last."""
    if not isinstance(messages, list) or len(messages) < 2:
        raise InvalidExample(
            '"messages" needs at least two turns.', hint="The last turn must be the assistant's."
        )
    return messages[:-1], messages[-1:]


def parse_prompt(value: object) -> Prompt:
    """Convert a text or a list of messages; one user message alone is the same as its text."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidExample("The input is neither a text nor a list of messages.", hint=_SHAPES_HINT)
    messages = tuple(_parse_message(turn) for turn in value)
    return messages[0].content if len(messages) == 1 and messages[0].role == "user" else messages


def parse_output(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) != 1:
        raise InvalidExample(
            "The output is neither a text nor a list of one message.", hint=_SHAPES_HINT
        )
    message = _parse_message(value[0])
    if message.role != "assistant":
        raise InvalidExample(
            f"The output is a message with the role {message.role!r}.",
            hint="Only messages of the assistant can be learned.",
        )
    return message.content


def _parse_message(turn: object) -> Message:
    if not isinstance(turn, dict) or not all(isinstance(turn.get(k), str) for k in ("role", "content")):
        raise InvalidExample(
            "A message must be an object with the keys role and content, both texts.",
            hint='For example: {"role": "user", "content": "Hello"}.',
        )
    check_keys(turn, ("role", "content"))
    role = "system" if turn["role"] == "developer" else turn["role"]
    return Message(role, turn["content"])


def check_keys(keys: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a key that is not `known`, with the nearest known one."""
    for key in keys:
        if key not in known:
            raise InvalidExample(f"Unknown key {key[:80]!r}.", hint=suggest_nearest(key, known))
