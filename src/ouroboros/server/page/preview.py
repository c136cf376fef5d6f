"""What a training would read from a file: examples, wrong rows with the reason, and the answers."""

import io
from collections import Counter
from collections.abc import Sequence
from typing import Any

from ouroboros.data.reader import ParsedData, parse_data
from ouroboros.data.report import find_conflicts, find_duplicates
from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.feedback import FeedbackKind, RecordedFeedback
from ouroboros.learning.replay.probes import choose_held_out

SHOWN = 8
"""Rows that are shown, of each kind."""

MAX_WRONG = 200
"""Wrong rows that are listed; all are counted."""

Value = TrainingExample | RecordedFeedback


def preview_file(content: bytes, name: str) -> dict[str, Any]:
    """Read every row, and say which cannot be learned from and why.

    A file whose first row is a pair of answers holds preferences; any other holds examples.

    Raises:
        InvalidFile: the file cannot be read as rows at all.
    """
    # The reader that trains is the one that previews, so both take the same rows.
    data = parse_data(io.BytesIO(content), name)
    values = [value for row in data.rows for value in row.values]
    is_preferences = bool(values) and isinstance(values[0], RecordedFeedback)
    usable = [value for value in values if _is_usable(value, is_preferences)]
    wrong = _list_wrong_rows(data, is_preferences)
    outputs = Counter(_read_output(value) for value in usable)
    return {
        "kind": "preferences" if is_preferences else "examples",
        "formats": dict(data.formats),
        "rows": sum(data.kinds.values()),
        "examples": len(usable),
        "held_out": len(choose_held_out([v for v in usable if isinstance(v, TrainingExample)], ())),
        "wrong": wrong[:MAX_WRONG],
        "wrong_count": len(wrong),
        "duplicates": sum(len(places) - 1 for places in find_duplicates(data)),
        "conflicts": [
            {"rows": list(c.locations), "prompt": c.prompt[:200], "answers": list(c.answers)[:4]}
            for c in find_conflicts(data)[:SHOWN]
        ],
        "ignored": sorted(data.ignored),
        "distinct_outputs": len(outputs),
        "outputs": [{"output": text[:80], "rows": n} for text, n in outputs.most_common(SHOWN)],
        "sample": [
            {"prompt": _read_question(value)[:300], "output": _read_output(value)[:300]}
            for value in usable[:SHOWN]
        ],
    }


def _is_usable(value: Value, is_preferences: bool) -> bool:
    if isinstance(value, TrainingExample):
        return not is_preferences
    return is_preferences and value.signal.kind is FeedbackKind.PREFERENCE_PAIR


def _list_wrong_rows(data: ParsedData, is_preferences: bool) -> Sequence[dict[str, str]]:
    """Rows that are nothing, and rows that are something else than the file's first row."""
    wrong = [{"row": row.location, "message": row.reason, "hint": row.hint} for row in data.refused]
    what = "a pair of answers" if is_preferences else "an example"
    wrong += [
        {
            "row": row.location,
            "message": f"The row is not {what}, as the first one is.",
            "hint": "Put examples and judgements in files of their own.",
        }
        for row in data.rows
        if not all(_is_usable(value, is_preferences) for value in row.values)
    ]
    return wrong


def _read_question(value: Value) -> str:
    prompt = value.input if isinstance(value, TrainingExample) else value.prompt
    return to_messages(prompt)[-1].content


def _read_output(value: Value) -> str:
    return value.output if isinstance(value, TrainingExample) else str(value.signal.text)
