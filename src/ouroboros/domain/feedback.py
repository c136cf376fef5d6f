"""Judgements of an answer."""

import math
from dataclasses import dataclass, replace
from enum import Enum

from ouroboros.domain.checks import validated
from ouroboros.domain.data import check_text
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.result import Result


class FeedbackKind(str, Enum):
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

    `score` is clamped to the signal's range: success 0..1, failure -1..0, preference 0..1.
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
        if not isinstance(score, (int, float)) or not math.isfinite(score):
            return signal  # `validate` refuses it
        low, high = _SCORE_RANGES[kind]
        return replace(signal, score=float(min(max(score, low), high)))

    def validate(self) -> Result["FeedbackSignal"]:
        return validated(self, self.check)

    def check(self) -> None:
        if self.kind in _SCORE_RANGES:
            score = self.score
            if (
                isinstance(score, bool)
                or not isinstance(score, (int, float))
                or not math.isfinite(score)
            ):
                raise InvalidExample(
                    f"The {self.kind.value} score is {score!r}.", hint="Give a finite number."
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
