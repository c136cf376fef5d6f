"""Trainings that are not done yet."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.names import AdapterId


class JobState(str, Enum):
    """QUEUED waits for its turn; INTERRUPTED was running when its program died, and can be gone on with;
    CANCELLING stops at its next step; FAILED ended with a reason, and can be tried again."""

    QUEUED = "queued"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    CANCELLING = "cancelling"
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
