"""Progress, reports and jobs of trainings."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import TypeAlias

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.names import AdapterId


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """One optimizer step: `step` of `steps`, the mean loss per labelled token, and the time taken.

    `checkpoint` is the state after the step, where one was due (see `backend.base.Checkpoints`).
    `note` says in words how the training saves memory; it is the same in every step.
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
        """The seconds that the remaining steps take at the pace so far."""
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
    """The state of a job.

    QUEUED       waits for its turn.
    RUNNING      trains now.
    INTERRUPTED  was running when its program died, and can be resumed.
    CANCELLING   stops at its next step.
    PAUSED was stopped and waits to be
    resumed; FAILED       ended with a reason, and can be tried again.
    """

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    CANCELLING = "cancelling"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Job:
    """A training on the examples of the journal's `event`, recorded until its version is stored.

    parent      the version that it started from; None before it starts.
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
        """The job's name: the adapter and the number of the event that started it."""
        return f"{self.adapter}#{self.event}"
