"""How an adapter's versions perform: users' judgements of their answers, and the gate's of them."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ouroboros.domain.records import Version
from ouroboros.domain.verdict import Repair, Verdict

_Z = 1.959964
"""95% of a normal distribution lies within this many standard deviations."""


@dataclass(frozen=True, slots=True)
class UsageCounts:
    """Judgements of a version's answers: how many were good, how many bad, and when."""

    good: int = 0
    bad: int = 0
    first: datetime | None = None
    last: datetime | None = None

    @property
    def judged(self) -> int:
        """How many answers a user judged."""
        return self.good + self.bad

    @property
    def success_rate(self) -> float | None:
        """The share of the judged answers that was good; None before the first judgement."""
        return self.good / self.judged if self.judged else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95% interval (1927) of the success rate; valid for few judgements too."""
        n = self.judged
        if not n:
            return 0.0, 1.0
        share, z2 = self.good / n, _Z**2
        middle = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def smoothed_rate(self) -> float:
        """The success rate with Laplace smoothing: near one half while there are few judgements."""
        return (self.good + 1) / (self.judged + 2)

    @property
    def per_day(self) -> float | None:
        """Judgements a day, between the first and the last."""
        if self.first is None or self.last is None or self.first == self.last:
            return None
        return (self.judged - 1) / ((self.last - self.first).total_seconds() / 86400)

    def __add__(self, other: "UsageCounts") -> "UsageCounts":
        first_times = [t for t in (self.first, other.first) if t]
        last_times = [t for t in (self.last, other.last) if t]
        return UsageCounts(
            self.good + other.good,
            self.bad + other.bad,
            min(first_times, default=None),
            max(last_times, default=None),
        )


@dataclass(frozen=True, slots=True)
class GateCounts:
    """How many of an adapter's versions the gate passed, repaired and refused.

    passed   promoted as they were made.
    walked   promoted after walking back towards the parent.
    again    promoted after training again.
    refused  stored and not served.
    """

    passed: int = 0
    walked: int = 0
    again: int = 0
    refused: int = 0

    @property
    def judged(self) -> int:
        """How many versions the gate judged."""
        return self.passed + self.walked + self.again + self.refused

    @classmethod
    def from_verdicts(cls, verdicts: Iterable[Verdict]) -> "GateCounts":
        """Counts the verdicts by what became of each version."""
        counts = Counter(v.saved_by if v.promoted else "refused" for v in verdicts)
        return cls(counts[None], counts[Repair.WALKED], counts[Repair.AGAIN], counts["refused"])


@dataclass(frozen=True, slots=True)
class Performance:
    """How an adapter's versions were trained, and how users judged their answers.

    versions  oldest first, each with its judgements.
    trend     "rising" or "falling" if the latest judgements differ from those before them by more than
              chance; "steady" if not; empty while there are too few.
    """

    versions: tuple[tuple[Version, UsageCounts], ...]
    trend: str = ""

    @property
    def gate_counts(self) -> GateCounts:
        """The gate's decisions about all versions, merges included."""
        return GateCounts.from_verdicts(v.verdict for v, _ in self.versions if v.verdict is not None)

    @property
    def usage(self) -> UsageCounts:
        """The judgements of all versions together."""
        return sum((use for _, use in self.versions), UsageCounts())
