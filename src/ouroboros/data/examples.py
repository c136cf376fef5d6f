"""Read training examples from JSON lines, in the formats that other programs write.

A file has one JSON object a line, in UTF-8. The keys tell which of three formats an example has; each
may also have a `weight`:

    {"prompt": ..., "completion": ...}      the format of TRL
    {"input": ..., "output": ...}           the fields of `TrainingExample`
    {"messages": [{"role", "content"}...]}  a conversation, which ends with a turn of the assistant

A prompt or input is a text or a list of messages. A completion or output is a text or a list of one
assistant message. A content is a text or a list of parts of the type text.

Every turn of the assistant that answers a user is one example, with the turns before it as its input. A
turn with `"weight": 0` is context only, as in OpenAI's format; another weight scales the turn's share.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias, TypeVar

from ouroboros.domain.checks import check_number, suggest_nearest
from ouroboros.domain.data import MAX_WEIGHT, Message, Prompt, TrainingExample
from ouroboros.domain.errors import InvalidConfig, InvalidExample, InvalidFile
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
Parser: TypeAlias = Callable[[Mapping[str, Any]], Sequence[C]]
"""Converts the object of one line, to one value or more."""


def read_examples(path: Path) -> list[TrainingExample]:
    """Read all examples of a file.

    Raises:
        InvalidFile: a line is not a valid example, with the file and the line number; or the file cannot
            be read or has no examples.
    """
    return read_rows(path, _parse_examples, _EXAMPLES)


def parse_examples(file: BinaryIO, name: str) -> list[TrainingExample]:
    """As `read_examples`, from an open file that errors call `name`."""
    return parse_rows(file, name, _parse_examples, _EXAMPLES)


def read_rows(path: Path, parse: Parser[C], contents: str) -> list[C]:
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


def parse_rows(file: BinaryIO, name: str, parse: Parser[C], contents: str) -> list[C]:
    """As `read_rows`, from an open file that errors call `name`."""
    lines = _iter_lines(file, name)
    rows = [row for n, line in lines for row in _read_line(line, parse, f"{name}, line {n}")]
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


def _read_line(line: bytes, parse: Parser[C], location: str) -> Sequence[C]:
    try:
        rows = parse(_parse_json(line))
        for row in rows:
            row.check()
    except InvalidExample as error:
        raise InvalidFile(f"{location}: {error.message}", hint=error.hint) from error
    return rows


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


def _parse_examples(row: Mapping[str, Any]) -> list[TrainingExample]:
    # An example has the keys of exactly one format; anything else is a mistake to report.
    shapes = [shape for shape in _SHAPES if row.keys() & set(shape)]
    check_keys(row, _KNOWN)
    if len(shapes) != 1:
        problem = "mixes the keys of two formats" if shapes else "has no input and no output"
        raise InvalidExample(f"The example {problem}.", hint=_SHAPES_HINT)
    missing = [key for key in shapes[0] if key not in row]
    if missing:
        raise InvalidExample(f"The example has no {missing[0]!r}.", hint=_SHAPES_HINT)
    weight = row.get("weight", 1.0)
    if shapes[0] == ("messages",):
        return _split_conversation(row["messages"], weight)
    prompt, output = (row[key] for key in shapes[0])
    return [TrainingExample(parse_prompt(prompt), parse_output(output), weight)]


def _split_conversation(messages: object, weight: Any) -> list[TrainingExample]:
    """One example for each turn of the assistant that answers a user and has a weight over 0."""
    if not isinstance(messages, list) or len(messages) < 2:
        raise InvalidExample(
            '"messages" needs at least two turns.', hint="The last turn must be the assistant's."
        )
    parse_output(messages[-1:])  # refuses a conversation that does not end with an answer
    turns = [_parse_message(turn) for turn in messages]
    examples = []
    for i, turn in enumerate(turns):
        # The first turn of an assistant that greets, or goes on speaking, answers nobody: it is context.
        is_answer = turn.role == "assistant" and i > 0 and turns[i - 1].role == "user"
        scale = _parse_turn_weight(messages[i])
        if (is_answer or i == len(turns) - 1) and scale:
            prompt = parse_prompt(messages[:i])
            example = TrainingExample(prompt, turn.content, weight)
            example.check()
            examples.append(replace(example, weight=example.weight * scale))
    if not examples:
        raise InvalidExample(
            "No turn of the assistant has a weight over 0.", hint="Give the turns to learn weight 1."
        )
    return examples


def _parse_turn_weight(turn: Mapping[str, Any]) -> float:
    try:
        check_number("weight of a turn", turn.get("weight", 1), 0.0, MAX_WEIGHT)
    except InvalidConfig as error:
        raise InvalidExample(error.message, hint=error.hint) from None
    return turn.get("weight", 1)


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
    role, content = (turn.get("role"), turn.get("content")) if isinstance(turn, dict) else (None, None)
    content = _join_parts(content) if isinstance(content, list) else content
    if not isinstance(turn, dict) or not isinstance(role, str) or not isinstance(content, str):
        raise InvalidExample(
            "A message must be an object with the keys role and content, both texts.",
            hint='For example: {"role": "user", "content": "Hello"}.',
        )
    check_keys(turn, ("role", "content", "weight") if role == "assistant" else ("role", "content"))
    return Message(role, content)


def _join_parts(parts: list[Any]) -> str:
    """The text of a content in OpenAI's parts; an image or a sound is refused by its type."""
    texts = []
    for part in parts:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise InvalidExample(
                f"A content has a part of the type {str(kind)[:80]!r}.",
                hint='Only parts like {"type": "text", "text": "Hello"} can be learned.',
            )
        texts.append(part["text"])
    return "".join(texts)


def check_keys(keys: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a key that is not `known`, with the nearest known one."""
    for key in keys:
        if key not in known:
            raise InvalidExample(f"Unknown key {key[:80]!r}.", hint=suggest_nearest(key, known))
