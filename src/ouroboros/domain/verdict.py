"""The gate's verdict on a candidate: what was measured, and what was decided.

The field names and the values are stored with each version.
"""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, order=True)
class ExampleRef:
    """A reference to one example of a journal: the event, and the row in it.

    A verdict refers to examples and never copies them, so that an erased text is gone everywhere. The
    journal is that of the version's adapter, or of the `adapter` named: the examples of a merge are in
    its parents' journals. Event 0 stands for a row that was given for one merge and is not stored.
    """

    event: int
    row: int = 0
    adapter: str = ""


class CheckName(str, Enum):
    """The checks of the gate.

    FINITE    all measured values are finite.
    DIFFERS   the candidate differs from the bare base.
    STRENGTH  norm of the candidate's updates relative to that of the layers they are added to.
    ARRIVED   the rows that it was trained on have become more likely.
    KNOWN     answers to what the adapter knew before; for a merge, to what each parent knew.
    CREEP     the same answers compared with when each was first learned: small falls add up.
    CLASS     the known answers, for each group of probes that share one answer.
    PINNED    answers that a user pinned: none may be lost.
    DRIFT     distance from the base on the anchors, in nats per token.
    """

    FINITE = "finite"
    DIFFERS = "differs"
    STRENGTH = "strength"
    ARRIVED = "arrived"
    KNOWN = "known"
    CREEP = "creep"
    CLASS = "class"
    PINNED = "pinned"
    DRIFT = "drift"


@dataclass(frozen=True, slots=True)
class Change:
    """A mean over `rows` probes before and after; its change lies within [low, high]."""

    rows: int
    before: float
    after: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """How much the mean changed: after less before."""
        return self.after - self.before

    def is_significant_fall(self, tolerance: float) -> bool:
        """Whether the mean fell by more than `tolerance`, and by more than chance."""
        return self.mean < -tolerance and self.high < 0

    def is_beyond(self, tolerance: float) -> bool:
        """Whether the mean fell by more than `tolerance` even at the upper end of the interval."""
        return self.high < -tolerance


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. Where there is a `limit`, `value` must not exceed it.

    answers     change of the share of probes that are answered exactly.
    likelihood  change of the mean probability of a right token.
    lost        the probes that were answered before and are no more.
    like        one of the probes checked, which stands for its class or for the adapter it came from.
    beside      the parent of a merge that it was compared with: the best one at these probes.
    """

    name: CheckName
    passed: bool
    value: float | None = None
    limit: float | None = None
    answers: Change | None = None
    likelihood: Change | None = None
    lost: tuple[ExampleRef, ...] = ()
    like: ExampleRef | None = None
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One candidate before the gate: what it was, in words, and the checks that it failed."""

    what: str
    failed: tuple[CheckName, ...] = ()


class Repair(str, Enum):
    """The repair that made a failed candidate pass.

    WALKED  interpolating between its parent and it.
    AGAIN   training its rows again at a lower rate; that may have been interpolated, too.
    """

    WALKED = "walked back"
    AGAIN = "trained again"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a version was promoted or refused, with every number.

    checks    of the candidate that was decided on.
    attempts  all candidates judged: the first one, then each repair.
    share     the interpolation factor from parent to candidate; 1 unless it was walked back.
    seconds   the time of judging, without any training.
    saved_by  the repair without which it would have been refused.
    """

    promoted: bool
    checks: tuple[Check, ...]
    attempts: tuple[Attempt, ...]
    share: float
    tolerance: float
    confidence: float
    seconds: float
    saved_by: Repair | None = None

    def find_check(self, name: CheckName) -> Check | None:
        """Return the first check of this name; None if there was none."""
        return next((c for c in self.checks if c.name is name), None)

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The checks that the candidate failed."""
        return tuple(c for c in self.checks if not c.passed)
