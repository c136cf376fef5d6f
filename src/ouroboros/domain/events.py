"""What the journal records: things that happened to an adapter, in order, never changed."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from ouroboros.domain.data import Prompt, TrainingExample, check_prompt, check_text
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.feedback import FeedbackSignal

MAX_TEXT = 100_000
"""Characters of one text that feedback may carry; whether it fits the model is checked in tokens."""


@dataclass(frozen=True, slots=True)
class ExamplesGiven:
    """Training examples were handed over, to be learned by the version that follows."""

    examples: tuple[TrainingExample, ...]
    at: datetime
    kind: Literal["examples"] = field(default="examples", kw_only=True)


@dataclass(frozen=True, slots=True)
class FeedbackGiven:
    """Somebody judged an answer.

    key       two events of one adapter with the same key are one event.
    user      who judged; None is the owner of this program.
    answered  the version that gave the answer ("tickets@3"), if it is known.
    logprobs  of the answer's tokens as they were sampled, if they are known.
    """

    prompt: Prompt
    generation: str
    signal: FeedbackSignal
    key: str
    at: datetime
    user: str | None = None
    answered: str | None = None
    logprobs: tuple[float, ...] = ()
    kind: Literal["feedback"] = field(default="feedback", kw_only=True)

    def check(self) -> None:
        """Refuse an event that could not be learned from or whose texts are absurdly long."""
        check_prompt("prompt", self.prompt)
        check_text("generation", self.generation)
        self.signal.check()
        for what, text in (("generation", self.generation), ("feedback", self.signal.text)):
            if text is not None and len(text) > MAX_TEXT:
                raise InvalidExample(
                    f"The {what} is {len(text):,} characters long.",
                    hint=f"At most {MAX_TEXT:,} can be learned from at once.",
                )


@dataclass(frozen=True, slots=True)
class Pinned:
    """Answers that must never be lost. They are asked at every update, and never trained on."""

    examples: tuple[TrainingExample, ...]
    at: datetime
    kind: Literal["pinned"] = field(default="pinned", kw_only=True)


@dataclass(frozen=True, slots=True)
class Unpinned:
    """Pins that no longer count."""

    prompts: tuple[Prompt, ...]
    at: datetime
    kind: Literal["unpinned"] = field(default="unpinned", kw_only=True)


Event: TypeAlias = ExamplesGiven | FeedbackGiven | Pinned | Unpinned
