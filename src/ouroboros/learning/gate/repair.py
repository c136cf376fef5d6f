"""What is tried with a candidate that did not pass, before it is refused."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from ouroboros.backend.base import TrainJob
from ouroboros.domain.verdict import CheckName, Verdict

_MENDED_BY_LESS = frozenset(
    {
        CheckName.KNOWN,
        CheckName.CREEP,
        CheckName.CLASS,
        CheckName.PINNED,
        CheckName.DRIFT,
        CheckName.STRENGTH,
    }
)


def mends(failed: Collection[CheckName]) -> bool:
    """Whether going less far could make these checks pass: not where nothing was learned at all."""
    return bool(failed) and set(failed) <= _MENDED_BY_LESS


FAR_ENOUGH = 0.5
"""A candidate walked back further has lost most of what it learned: something else is tried."""


def far_enough(verdict: Verdict) -> bool:
    return verdict.promoted and verdict.share >= FAR_ENOUGH


@dataclass(frozen=True, slots=True)
class Walk:
    """A search for the furthest point between parent (0) and candidate (1) that passes, by halves."""

    passed: float = 0.0
    failed: float = 1.0
    tries: int = 3

    @property
    def share(self) -> float | None:
        """The point to try next; None when the search is over."""
        return (self.passed + self.failed) / 2 if self.tries else None

    def after(self, share: float, passed: bool) -> "Walk":
        if passed:
            return Walk(share, self.failed, self.tries - 1)
        return Walk(self.passed, share, self.tries - 1)


def retry_job(job: TrainJob) -> TrainJob:
    """The same training with twice the replay, and a row for each new one at least, at half the rate."""
    adapter, training = job.adapter, job.training
    return replace(
        job,
        adapter=replace(adapter, learning_rate=adapter.learning_rate / 2),
        training=replace(training, replay=min(max(2 * training.replay, 1.0), 16.0)),
    )
