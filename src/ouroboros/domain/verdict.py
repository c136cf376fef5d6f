"""A verdict: what was measured of a candidate before it could be served, and what followed from it."""

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True, slots=True, order=True)
class ExampleRef:
    """Where a text stands in a journal: the event, and which of its rows.

    A verdict points at texts and never copies them, so that what is erased is gone. The journal is that
    of the version's own adapter, or of the `adapter` named: what a merge took over stands in its
    parents'. Event 0 is none: the row was given for one merge, and is kept nowhere.
    """

    event: int
    row: int = 0
    adapter: str = ""


class CheckName(str, Enum):
    """What the gate looks at.

    FINITE    every number measured is one.
    DIFFERS   the candidate moves its base at all.
    STRENGTH  how far it does: the norm of its updates over that of the layers they are added to.
    ARRIVED   the rows that it was trained on have become likelier.
    KNOWN     answers to what the adapter knew before; a merge's, to what each parent did.
    CREEP     the same answers beside how they were when each was learned: small falls add up.
    CLASS     the same, of the probes that share one answer.
    PINNED    answers that a user said must never be lost.
    DRIFT     how far plain exchanges are from the base's, in nats per token.
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
    """One measure of `rows` things before and after: the change of its mean, within [low, high]."""

    rows: int
    before: float
    after: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        return self.after - self.before

    def falls(self, tolerance: float) -> bool:
        """By more than is tolerated, and by more than chance."""
        return self.mean < -tolerance and self.high < 0


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `value` was to be at most `limit`, where there is one.

    answers  the share of probes answered exactly; `likelihood` the mean probability of a right token.
    lost     the probes answered before and not any more, as places in the journal.
    like     a probe of the class, or of the knowledge taken over from another adapter, that is meant.
    beside   of a merge's parents the one that was compared with: the best at these probes.
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
    """One candidate put to the gate: what it was, and the checks that it failed."""

    what: str
    failed: tuple[CheckName, ...] = ()


class Repair(str, Enum):
    """What made a candidate pass that had failed.

    WALKED  going only part of the way from its parent to it.
    AGAIN   training its rows again, more gently; that may have been walked back, too.
    """

    WALKED = "walked back"
    AGAIN = "trained again"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a version was promoted or refused, with every number.

    checks    of the candidate that was decided on.
    attempts  every candidate judged: the first one, then each repair.
    share     how much of the way from parent to candidate was gone; 1 unless it had to be walked back.
    seconds   what judging took, training again excepted.
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

    def check(self, name: CheckName) -> Check | None:
        """The first check of a name, if it was made."""
        return next((c for c in self.checks if c.name is name), None)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(c for c in self.checks if not c.passed)
