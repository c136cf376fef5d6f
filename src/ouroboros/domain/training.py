"""What training says while it runs and when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeAlias

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.names import AdapterId


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One optimizer step: `step` of `steps`, mean loss per labelled token, and how far along.

    `checkpoint` is the training's state after it, where one was due (see `backend.base.Checkpoints`).
    `note` says what is done for want of memory, in words; it is the same in every step.
    """

    step: int
    steps: int
    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    checkpoint: bytes | None = None
    note: str = ""

    @property
    def seconds_left(self) -> float:
        return self.seconds / self.step * (self.steps - self.step)


OnProgress: TypeAlias = Callable[[TrainingProgress], None]


@dataclass(frozen=True, slots=True)
class TrainingReport:
    """A finished training. Losses are means over the first and over the last tenth of the steps."""

    rows: int
    steps: int
    tokens: int
    first_loss: float
    final_loss: float
    seconds: float
    advice: str = ""

    @property
    def diverged(self) -> bool:
        """Whether the loss rose, by more than rows of different steps may differ."""
        return self.final_loss > 1.1 * self.first_loss + 0.1


class JobState(str, Enum):
    """QUEUED waits for its turn; INTERRUPTED was running when its program died, and can be gone on with;
    CANCELLING stops at its next step; PAUSED was stopped and waits to be
    resumed; FAILED ended with a reason, and can be tried again."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """A training on the examples of the journal's `event`, written down until it has become a version.

    parent      the version that it started from, once it has.
    checkpoint  the key of its last state, taken after `step` of `steps`; None before the first.
    """

    adapter: AdapterId
    event: int
    training: TrainingConfig
    created_at: datetime
    state: JobState = JobState.QUEUED
    parent: int | None = None
    step: int = 0
    steps: int = 0
    checkpoint: str | None = None
    reason: str = ""

    @property
    def id(self) -> str:
        return f"{self.adapter}#{self.event}"
