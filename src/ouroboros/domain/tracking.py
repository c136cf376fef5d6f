"""How versions do in use."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from ouroboros.domain.records import Version
from ouroboros.domain.verdict import Repair, Verdict

_Z = 1.959964
"""Of a normal distribution, 95% lies within this many standard deviations."""


@dataclass(frozen=True, slots=True)
class UsageCounts:
    """What people said of a version's answers: how many were right, how many wrong, and when."""

    good: int = 0
    bad: int = 0
    first: datetime | None = None
    last: datetime | None = None

    @property
    def judged(self) -> int:
        return self.good + self.bad

    @property
    def share(self) -> float | None:
        """Of the judged answers, the share that was right; None before anything was said."""
        return self.good / self.judged if self.judged else None

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval (1927): where the true share lies, at 95%; sound for few judgements too."""
        n = self.judged
        if not n:
            return 0.0, 1.0
        share, z2 = self.good / n, _Z**2
        middle = (share + z2 / (2 * n)) / (1 + z2 / n)
        half = _Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
        return max(0.0, middle - half), min(1.0, middle + half)

    @property
    def score(self) -> float:
        """One number to weigh versions by: the share, drawn to one half where little was said."""
        return (self.good + 1) / (self.judged + 2)

    @property
    def per_day(self) -> float | None:
        """Judgements a day, between the first and the last."""
        if self.first is None or self.last is None or self.first == self.last:
            return None
        return (self.judged - 1) / ((self.last - self.first).total_seconds() / 86400)

    def __add__(self, other: "UsageCounts") -> "UsageCounts":
        starts = [t for t in (self.first, other.first) if t]
        ends = [t for t in (self.last, other.last) if t]
        return UsageCounts(
            self.good + other.good,
            self.bad + other.bad,
            min(starts, default=None),
            max(ends, default=None),
        )


@dataclass(frozen=True, slots=True)
class GateCounts:
    """What the gate did with an adapter's versions: how many it judged, and what became of them.

    passed   as they were made.
    walked, again  would have been refused, but for walking back or for training again.
    refused  kept and not served.
    """

    passed: int = 0
    walked: int = 0
    again: int = 0
    refused: int = 0

    @property
    def judged(self) -> int:
        return self.passed + self.walked + self.again + self.refused

    @classmethod
    def of(cls, verdicts: Iterable[Verdict]) -> "GateCounts":
        counts = Counter(v.saved_by if v.promoted else "refused" for v in verdicts)
        return cls(counts[None], counts[Repair.WALKED], counts[Repair.AGAIN], counts["refused"])


@dataclass(frozen=True, slots=True)
class Performance:
    """How an adapter's versions were trained, and what was said of their answers.

    versions  oldest first, each with its use; training, probes and verdict are in the version.
    trend     "rising" or "falling" if the latest judgements differ from those before them by more than
              chance; "steady" if not; empty while there are too few.
    """

    versions: tuple[tuple[Version, UsageCounts], ...]
    trend: str = ""

    @property
    def gated(self) -> GateCounts:
        """What the gate did with them, merges included."""
        return GateCounts.of(v.verdict for v, _ in self.versions if v.verdict is not None)

    @property
    def use(self) -> UsageCounts:
        """Of all versions together."""
        return sum((use for _, use in self.versions), UsageCounts())
