"""The events of an adapter's journal, which is append-only."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypeAlias

from ouroboros.domain.data import Prompt, TrainingExample
from ouroboros.domain.feedback import FeedbackSignal, check_judgement


@dataclass(frozen=True, slots=True)
class ExamplesGiven:
    """Training examples that the next version learns."""

    examples: tuple[TrainingExample, ...]
    at: datetime
    kind: Literal["examples"] = field(default="examples", kw_only=True)


@dataclass(frozen=True, slots=True)
class FeedbackGiven:
    """A judgement of one answer, `generation`, to one prompt.

    key       identifies the judgement: of two events with one key, one counts.
    user      who judged; None is the owner of this program.
    answered  the version that gave the answer ("tickets@3"), if it is known.
    logprobs  log-probabilities of the answer's tokens as they were sampled [T], if they are known.
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
        """Raise `InvalidExample` if the event is malformed or a text is longer than `MAX_TEXT`."""
        check_judgement(self.prompt, self.generation, self.signal, self.user, self.key)


@dataclass(frozen=True, slots=True)
class Pinned:
    """Answers that must never be lost: each update is tested on them, and none is trained on them."""

    examples: tuple[TrainingExample, ...]
    at: datetime
    kind: Literal["pinned"] = field(default="pinned", kw_only=True)


@dataclass(frozen=True, slots=True)
class Unpinned:
    """Prompts whose pins are removed."""

    prompts: tuple[Prompt, ...]
    at: datetime
    kind: Literal["unpinned"] = field(default="unpinned", kw_only=True)


Event: TypeAlias = ExamplesGiven | FeedbackGiven | Pinned | Unpinned
