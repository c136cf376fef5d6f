"""Rules for the form of answers, for tasks whose answers have no single right text.

A rules file is a JSON list. Each rule has a name and a regular expression that must match the answer:

    [{"rule": "signs with the team", "pattern": "The Lindenhof team$"},
     {"rule": "names the ticket", "pattern": "ticket is {copied}", "copied": "LH-[0-9]{4}"}]

With `copied`, `{copied}` in the pattern stands for what that expression matches in the prompt. The rule
holds for every answer to a prompt in which `copied` matches nothing.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ouroboros.domain.data import Prompt, to_messages
from ouroboros.domain.errors import InvalidFile

_HINT = 'Write a list like [{"rule": "signs with the team", "pattern": "The team$"}].'
_PLACEHOLDER = "{copied}"


@dataclass(frozen=True, slots=True)
class AnswerRule:
    """A regular expression that an answer must match; `copied` is searched in the prompt first."""

    name: str
    pattern: str
    copied: str | None = None

    def holds(self, prompt: Prompt, answer: str) -> bool:
        """Return whether the answer to a prompt keeps the rule; blanks at its ends do not count."""
        pattern = self.pattern
        if self.copied is not None:
            match = re.search(self.copied, to_messages(prompt)[-1].content)
            if match is None:
                return True
            pattern = pattern.replace(_PLACEHOLDER, re.escape(match[0]))
        return re.search(pattern, answer.strip()) is not None


def list_broken_rules(rules: Sequence[AnswerRule], prompt: Prompt, answer: str) -> list[AnswerRule]:
    """Return the rules that the answer to a prompt breaks."""
    return [rule for rule in rules if not rule.holds(prompt, answer)]


def read_rules(path: Path) -> list[AnswerRule]:
    """Read a rules file.

    Raises:
        InvalidFile: the file cannot be read, is not a list of rules, or has an expression that is not
            valid; the message names the rule.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidFile(f"{path} cannot be read: {error.strerror}.", hint=_HINT) from error
    except (ValueError, RecursionError) as error:
        raise InvalidFile(f"{path} is not JSON: {error}.", hint=_HINT) from None
    if not isinstance(values, list) or not values:
        raise InvalidFile(f"{path} has no rules.", hint=_HINT)
    return [_parse_rule(path, number, value) for number, value in enumerate(values, 1)]


def _parse_rule(path: Path, number: int, value: object) -> AnswerRule:
    keys = {"rule", "pattern", "copied"}
    if (
        not isinstance(value, dict)
        or not keys >= value.keys() >= {"rule", "pattern"}
        or not all(isinstance(text, str) for text in value.values())
    ):
        raise InvalidFile(
            f'{path}: rule {number} is not an object with the texts "rule" and "pattern".',
            hint=_HINT,
        )
    rule = AnswerRule(value["rule"], value["pattern"], value.get("copied"))
    for expression in (rule.copied or "", rule.pattern.replace(_PLACEHOLDER, "")):
        try:
            re.compile(expression)
        except re.error as error:
            raise InvalidFile(
                f"{path}: the expression of rule {number} ({rule.name[:80]!r}) is not valid: {error}.",
                hint="See the syntax of Python's regular expressions.",
            ) from None
    return rule
