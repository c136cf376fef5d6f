"""What training says while it runs and when it is done."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


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
