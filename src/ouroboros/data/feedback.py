"""Read recorded feedback from JSON lines: what people thought of answers given elsewhere.

A file has one JSON object a line, in UTF-8, with a `prompt`, an `answer` and one of

    "correction": text         "success": 0..1        "failure": -1..0
    "preference": 0..1         "critique": text       "chosen": text, "rejected": text

A `user` and a `key` are optional. Feedback with `chosen` and `rejected` needs no `answer`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ouroboros.data.examples import check_keys, parse_prompt, read_rows
from ouroboros.domain.data import Prompt, check_prompt, check_text
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.feedback import FeedbackSignal

_SIGNALS: dict[str, Callable[[Any], FeedbackSignal]] = {
    "correction": FeedbackSignal.user_correction,
    "success": FeedbackSignal.success,
    "failure": FeedbackSignal.failure,
    "preference": FeedbackSignal.preference,
    "critique": FeedbackSignal.critique,
}
_KNOWN = ("prompt", "answer", *_SIGNALS, "chosen", "rejected", "user", "key")
_HINT = f'Give "prompt", "answer" and one of {", ".join(_SIGNALS)}, or "chosen" and "rejected".'


@dataclass(frozen=True, slots=True)
class RecordedFeedback:
    """One line: a prompt, its answer, the feedback on it, and the user who gave it.

    An answer can be empty; it is None where the adapter is to answer first.
    """

    prompt: Prompt
    answer: str | None
    signal: FeedbackSignal
    user: str | None = None
    key: str | None = None

    def check(self) -> None:
        check_prompt("prompt", self.prompt)
        check_text("answer", self.answer, may_be_empty=True)
        self.signal.check()
        for name, value in (("user", self.user), ("key", self.key)):
            if value is not None:
                check_text(name, value)


def read_feedback(path: Path) -> list[RecordedFeedback]:
    """Read all feedback of a file.

    Raises:
        InvalidFile: a line is not valid feedback, with the file and the line number; or the file cannot
            be read or has no feedback.
    """
    return read_rows(path, _parse_feedback, f"feedback. Write one JSON object a line. {_HINT}")


def _parse_feedback(row: Mapping[str, Any]) -> list[RecordedFeedback]:
    check_keys(row, _KNOWN)
    signals = [name for name in _SIGNALS if name in row]
    pair = "chosen" in row or "rejected" in row
    if "prompt" not in row or len(signals) + pair != 1:
        raise InvalidExample("The feedback has no prompt, or not exactly one signal.", hint=_HINT)
    if pair:
        if "chosen" not in row or "rejected" not in row:
            raise InvalidExample("Only one of two answers is given.", hint=_HINT)
        signal = FeedbackSignal.preference_pair(row["chosen"], row["rejected"])
    else:
        signal = _SIGNALS[signals[0]](row[signals[0]])
    answer = row.get("answer", row.get("rejected"))
    prompt = parse_prompt(row["prompt"])
    return [RecordedFeedback(prompt, answer, signal, row.get("user"), row.get("key"))]
