"""What a training would read from a file: examples, wrong lines with the reason, and the answers."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from ouroboros.data.examples import parse_examples
from ouroboros.data.preferences import PreferencePair, parse_preferences
from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.errors import InvalidFile

SHOWN = 8
"""Rows that are shown, of each kind."""

MAX_WRONG = 200
"""Wrong lines that are reported; the others are counted."""


def preview_file(data: bytes, name: str) -> dict[str, Any]:
    """Read every line by itself, so that one wrong line does not hide the next one.

    A file whose first line has a preferred output holds preferences; any other holds examples.
    """
    lines = [
        (number, line)
        for number, line in enumerate(data.splitlines(), 1)
        if line.strip(b"\xef\xbb\xbf \t")
    ]
    is_preferences = bool(lines) and b'"preferred_output"' in lines[0][1]
    parse = parse_preferences if is_preferences else parse_examples
    rows: list[TrainingExample | PreferencePair] = []
    wrong: list[dict[str, Any]] = []
    for number, line in lines:
        try:
            rows += parse(io.BytesIO(line), name)
        except InvalidFile as error:
            message = error.message.removeprefix(f"{name}, line 1").lstrip(": ")
            wrong.append(
                {
                    "line": number,
                    "message": message,
                    "hint": error.hint,
                    "text": line[:160].decode(errors="replace"),
                }
            )
    outputs = Counter(_read_output(row) for row in rows)
    return {
        "kind": "preferences" if is_preferences else "examples",
        "lines": len(lines),
        "examples": len(rows),
        "wrong": wrong[:MAX_WRONG],
        "wrong_count": len(wrong),
        "duplicates": len(rows) - len(set(map(_identify, rows))),
        "distinct_outputs": len(outputs),
        "outputs": [{"output": text[:80], "rows": n} for text, n in outputs.most_common(SHOWN)],
        "sample": _describe_rows(rows[:SHOWN]),
    }


def _describe_rows(rows: Sequence[TrainingExample | PreferencePair]) -> list[Mapping[str, str]]:
    return [{"prompt": _read_question(row)[:300], "output": _read_output(row)[:300]} for row in rows]


def _read_question(row: TrainingExample | PreferencePair) -> str:
    prompt = row.input if isinstance(row, TrainingExample) else row.prompt
    return to_messages(prompt)[-1].content


def _read_output(row: TrainingExample | PreferencePair) -> str:
    return row.output if isinstance(row, TrainingExample) else row.chosen


def _identify(row: TrainingExample | PreferencePair) -> tuple[object, str]:
    prompt = row.input if isinstance(row, TrainingExample) else row.prompt
    return prompt, _read_output(row)
