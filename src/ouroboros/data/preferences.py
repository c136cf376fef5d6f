"""Pairs of a preferred and another answer, from JSON lines in the form of OpenAI's preference tuning.

One JSON object a line, UTF-8:

    {"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}

Each output is a list with one message of the assistant.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ouroboros.data.examples import check_keys, parse_output, parse_prompt, parse_rows
from ouroboros.domain.data import Prompt, check_prompt
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.feedback import FeedbackSignal

_KEYS = ("input", "preferred_output", "non_preferred_output")
_HINT = 'Give "input" with "messages", "preferred_output" and "non_preferred_output".'


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Of two answers to `prompt`, `chosen` is better."""

    prompt: Prompt
    chosen: str
    rejected: str

    @property
    def signal(self) -> FeedbackSignal:
        return FeedbackSignal.preference_pair(self.chosen, self.rejected)

    def check(self) -> None:
        check_prompt("input", self.prompt)
        self.signal.check()


def parse_preferences(file: BinaryIO, name: str) -> list[PreferencePair]:
    """Every pair of a file; raises `InvalidFile` with its name and the line's number."""
    return parse_rows(file, name, _parse_pair, f"pairs. One JSON object a line. {_HINT}")


def _parse_pair(row: Mapping[str, Any]) -> PreferencePair:
    check_keys(row, _KEYS)
    missing = [key for key in _KEYS if key not in row]
    if missing:
        raise InvalidExample(f"The pair has no {missing[0]!r}.", hint=_HINT)
    conversation = row["input"]
    if not isinstance(conversation, dict) or "messages" not in conversation:
        raise InvalidExample('The pair\'s "input" has no "messages".', hint=_HINT)
    check_keys(
        {k: v for k, v in conversation.items() if v not in (None, [], True, False)}, ("messages",)
    )
    return PreferencePair(
        parse_prompt(conversation["messages"]),
        parse_output(row["preferred_output"]),
        parse_output(row["non_preferred_output"]),
    )
