"""Judgements of an answer."""

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeGuard

from ouroboros.domain.checks import validate
from ouroboros.domain.data import Prompt, check_prompt, check_text, to_messages
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.limits import MAX_KEY, MAX_TEXT, MAX_USER, check_length
from ouroboros.domain.result import Result


class FeedbackKind(str, Enum):
    """What a user can say about an answer; the values are stored."""

    CORRECTION = "correction"
    SUCCESS = "success"
    FAILURE = "failure"
    PREFERENCE = "preference"
    PREFERENCE_PAIR = "preference_pair"
    CRITIQUE = "critique"


_SCORE_RANGES = {
    FeedbackKind.SUCCESS: (0.0, 1.0),
    FeedbackKind.FAILURE: (-1.0, 0.0),
    FeedbackKind.PREFERENCE: (0.0, 1.0),
}


@dataclass(frozen=True, slots=True)
class FeedbackSignal:
    """One judgement of one answer; build it with the class methods.

    `score` is limited to the signal's range: success 0..1, failure -1..0, preference 0..1. `check`
    refuses a score of the wrong sign, a boolean and what is no finite number.
    `text` is the correction, the chosen answer or the critique; `rejected` the answer not chosen.
    """

    kind: FeedbackKind
    score: float | None = None
    text: str | None = None
    rejected: str | None = None

    @classmethod
    def user_correction(cls, text: str) -> "FeedbackSignal":
        """The answer should have been `text`."""
        return cls(FeedbackKind.CORRECTION, text=text)

    @classmethod
    def success(cls, score: float = 1.0) -> "FeedbackSignal":
        """The answer was right."""
        return cls._from_score(FeedbackKind.SUCCESS, score)

    @classmethod
    def failure(cls, score: float = -1.0) -> "FeedbackSignal":
        """The answer was wrong; what would have been right is not known."""
        return cls._from_score(FeedbackKind.FAILURE, score)

    @classmethod
    def preference(cls, score: float) -> "FeedbackSignal":
        """How much the answer was liked, from 0 to 1."""
        return cls._from_score(FeedbackKind.PREFERENCE, score)

    @classmethod
    def preference_pair(cls, chosen: str, rejected: str) -> "FeedbackSignal":
        """Of two answers to the prompt, `chosen` is better."""
        return cls(FeedbackKind.PREFERENCE_PAIR, text=chosen, rejected=rejected)

    @classmethod
    def critique(cls, text: str) -> "FeedbackSignal":
        """Free text about the answer, kept in the journal; nothing is trained on it."""
        return cls(FeedbackKind.CRITIQUE, text=text)

    @classmethod
    def _from_score(cls, kind: FeedbackKind, score: float) -> "FeedbackSignal":
        signal = cls(kind, score=score)
        low, high = _SCORE_RANGES[kind]
        if not _is_number(score) or (low < 0 < score) or (score < 0 <= low):
            return signal  # `validate` refuses it
        return replace(signal, score=float(min(max(score, low), high)))

    def validate(self) -> Result["FeedbackSignal"]:
        return validate(self, self.check)

    def check(self) -> None:
        """Raises `InvalidExample` if the score is out of its kind's range, or a text is missing."""
        if self.kind in _SCORE_RANGES:
            score, (low, high) = self.score, _SCORE_RANGES[self.kind]
            if not _is_number(score) or not low <= score <= high:
                raise InvalidExample(
                    f"The {self.kind.value} score is {score!r}.",
                    hint=f"Give a number from {low:g} to {high:g}.",
                )
            return
        check_text(self.kind.value.replace("_", " "), self.text)
        if self.kind is FeedbackKind.PREFERENCE_PAIR:
            check_text("rejected answer", self.rejected, may_be_empty=True)
            if self.text == self.rejected:
                raise InvalidExample(
                    "The chosen and the rejected answer are the same.",
                    hint="Give two different answers.",
                )


def _is_number(score: object) -> TypeGuard[float]:
    """Whether a score is a finite number; True and False are none."""
    return isinstance(score, (int, float)) and not isinstance(score, bool) and math.isfinite(score)


def check_judgement(
    prompt: Prompt, answer: object, signal: FeedbackSignal, user: object, key: object
) -> None:
    """Raise `InvalidExample` if a judgement is malformed or one of its texts is longer than allowed."""
    check_prompt("prompt", prompt)
    check_text("answer", answer, may_be_empty=True)
    signal.check()
    texts = {"answer": answer, "feedback": signal.text, "rejected answer": signal.rejected}
    texts["prompt"] = "".join(message.content for message in to_messages(prompt))
    limits = [(what, text, MAX_TEXT) for what, text in texts.items()]
    limits += [("key", key, MAX_KEY), ("user", user, MAX_USER)]
    for what, text, limit in limits:
        if text is not None:
            check_length(what, text, limit)


@dataclass(frozen=True, slots=True)
class RecordedFeedback:
    """A judgement from a file: a prompt, its answer, the feedback on it, and the user who gave it.

    An answer can be empty; it is None where the adapter is to answer first.
    """

    prompt: Prompt
    answer: str | None
    signal: FeedbackSignal
    user: str | None = None
    key: str | None = None

    def check(self) -> None:
        """Raises `InvalidExample` if nothing can be learned from it."""
        for name, value in (("user", self.user), ("key", self.key)):
            if value is not None:
                check_text(name, value)
        check_judgement(self.prompt, self.answer, self.signal, self.user, self.key)
