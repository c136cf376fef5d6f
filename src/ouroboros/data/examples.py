"""Training examples from JSON lines, in the shapes that other programs write.

One JSON object a line, UTF-8. Three shapes, told apart by their keys; `weight` may be added to each:

    {"prompt": ..., "completion": ...}      as TRL has them
    {"input": ..., "output": ...}           as `TrainingExample` has them
    {"messages": [{"role", "content"}...]}  a conversation; the assistant's last turn is the output

A prompt or input is text or a list of messages; a completion or output is text or a list holding one
message of the assistant.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.data import Message, Prompt, TrainingExample
from ouroboros.domain.errors import InvalidExample, InvalidFile

MAX_LINE = 16 * 1024 * 1024
"""Bytes in one line, at most: more than any context holds."""

_SHAPES = (("prompt", "completion"), ("input", "output"), ("messages",))
_KNOWN = ("prompt", "completion", "input", "output", "messages", "weight")
_SHAPES_HINT = 'Give "prompt" and "completion", "input" and "output", or "messages".'
_BOM = b"\xef\xbb\xbf"


class Checked(Protocol):
    """What a line becomes: a value that can say what is wrong with it."""

    def check(self) -> None: ...


C = TypeVar("C", bound=Checked)


def read_examples(path: Path) -> list[TrainingExample]:
    """Every example of a file; raises `InvalidFile` with the file's name and the line's number."""
    return read_rows(path, _from_row, f"examples. One JSON object a line. {_SHAPES_HINT}")


def read_rows(path: Path, make: Callable[[Mapping[str, Any]], C], wanted: str) -> list[C]:
    """What `make` makes of every line's object; `wanted` says what the file should hold."""
    try:
        with path.open("rb") as file:
            found = [_row(line, make, f"{path}, line {n}") for n, line in _lines(file, path)]
    except OSError as error:
        raise InvalidFile(
            f"{path} cannot be read: {error.strerror}.", hint="Give a file of JSON lines."
        ) from error
    if not found:
        what, _, hint = wanted.partition(". ")
        raise InvalidFile(f"{path} holds no {what}.", hint=hint)
    return found


def _lines(file: BinaryIO, path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, numbered from 1, without the mark that some editors put first."""
    number = 0
    while line := file.readline(MAX_LINE + 1):
        number += 1
        if len(line) > MAX_LINE:
            raise InvalidFile(
                f"{path}, line {number} is longer than {MAX_LINE // 2**20} MiB.",
                hint="Is it a file of JSON lines, one example a line?",
            )
        line = line.removeprefix(_BOM) if number == 1 else line
        if line.strip():
            yield number, line


def _row(line: bytes, make: Callable[[Mapping[str, Any]], C], where: str) -> C:
    try:
        made = make(_parse(line))
        made.check()
    except InvalidExample as error:
        raise InvalidFile(f"{where}: {error.message}", hint=error.hint) from error
    return made


def _parse(line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidExample("The line is not UTF-8.", hint="Save the file as UTF-8.") from None
    except (ValueError, RecursionError) as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else "it is nested too deeply"
        column = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidExample(
            f"The line is not JSON: {problem}{column}.", hint="One JSON object a line."
        ) from error
    if not isinstance(row, dict):
        raise InvalidExample("The line is not a JSON object.", hint=_SHAPES_HINT)
    return row


def _from_row(row: Mapping[str, Any]) -> TrainingExample:
    shapes = [shape for shape in _SHAPES if row.keys() & set(shape)]
    refuse_unknown(row, _KNOWN)
    if len(shapes) != 1:
        problem = "mixes two kinds of keys" if shapes else "has no input and no output"
        raise InvalidExample(f"The example {problem}.", hint=_SHAPES_HINT)
    missing = [key for key in shapes[0] if key not in row]
    if missing:
        raise InvalidExample(f"The example has no {missing[0]!r}.", hint=_SHAPES_HINT)
    values = [row[key] for key in shapes[0]]
    prompt, output = _conversation(values[0]) if len(values) == 1 else (values[0], values[1])
    return TrainingExample(prompt_of(prompt), _output(output), row.get("weight", 1.0))


def _conversation(messages: object) -> tuple[object, object]:
    """All turns but the last, and the last."""
    if not isinstance(messages, list) or len(messages) < 2:
        raise InvalidExample(
            '"messages" needs at least two turns.', hint="The last one is the assistant's."
        )
    return messages[:-1], messages[-1:]


def prompt_of(value: object) -> Prompt:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidExample("The input is neither text nor a list of messages.", hint=_SHAPES_HINT)
    messages = tuple(_message(turn) for turn in value)
    return messages[0].content if len(messages) == 1 and messages[0].role == "user" else messages


def _output(value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or len(value) != 1:
        raise InvalidExample("The output is neither text nor one message.", hint=_SHAPES_HINT)
    message = _message(value[0])
    if message.role != "assistant":
        raise InvalidExample(
            f"The output is a turn of the {message.role}.", hint="Only the assistant's can be learned."
        )
    return message.content


def _message(turn: object) -> Message:
    if not isinstance(turn, dict) or not all(isinstance(turn.get(k), str) for k in ("role", "content")):
        raise InvalidExample(
            "A message is not an object with a role and a content, both text.",
            hint='Like {"role": "user", "content": "Hello"}.',
        )
    refuse_unknown(turn, ("role", "content"))
    return Message(turn["role"], turn["content"])


def refuse_unknown(found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in found:
        if key not in known:
            raise InvalidExample(f"The key {key[:80]!r} is not known.", hint=suggest_nearest(key, known))
