"""Walking back from a refused candidate towards its parent, and training again more gently."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from ouroboros.backend.base import TrainJob
from ouroboros.domain.verdict import CheckName, Verdict

_HELPED_BY_WALKING_BACK = frozenset(
    {
        CheckName.KNOWN,
        CheckName.CREEP,
        CheckName.CLASS,
        CheckName.PINNED,
        CheckName.DRIFT,
        CheckName.STRENGTH,
    }
)


def walking_back_helps(failed: Collection[CheckName]) -> bool:
    """Whether walking back towards the parent could make these checks pass.

    It cannot if the candidate learned nothing.
    """
    return bool(failed) and set(failed) <= _HELPED_BY_WALKING_BACK


MIN_SHARE = 0.5
"""The smallest share worth keeping: a candidate walked back further has lost most of what it learned."""


def keeps_enough(verdict: Verdict) -> bool:
    """Whether a candidate passed without losing most of what it learned."""
    return verdict.promoted and verdict.share >= MIN_SHARE


@dataclass(frozen=True, slots=True)
class WalkBack:
    """A bisection for the largest share of the way from parent (0) to candidate (1) that passes."""

    passed: float = 0.0
    failed: float = 1.0
    tries: int = 3

    @property
    def share(self) -> float | None:
        """The share to try next; None when the search is over."""
        return (self.passed + self.failed) / 2 if self.tries else None

    def narrow(self, share: float, passed: bool) -> "WalkBack":
        """The search after a `share` was tried."""
        if passed:
            return WalkBack(share, self.failed, self.tries - 1)
        return WalkBack(self.passed, share, self.tries - 1)


def retry_job(job: TrainJob) -> TrainJob:
    """The same training at half the learning rate, with twice the replay, at least a row per new row."""
    adapter, training = job.adapter, job.training
    return replace(
        job,
        adapter=replace(adapter, learning_rate=adapter.learning_rate / 2),
        training=replace(training, replay=min(max(2 * training.replay, 1.0), 16.0)),
    )
