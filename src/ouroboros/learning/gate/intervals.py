"""The same things measured twice: how far a mean moved, and within which bounds chance leaves it.

Both intervals are paired: what did not change, however much of it there is, widens neither.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev

from ouroboros.domain.verdict import Change


def change_of_answers(before: Sequence[bool], after: Sequence[bool], confidence: float) -> Change:
    """Right answers lost and gained: an exact interval (McNemar's, by Clopper and Pearson).

    Of the m answers that changed, the share lost lies within binomial bounds. One answer lost of ten is
    chance (it might as well have been gained); five of ten are not.
    """
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    changed, rows = lost + gained, len(before)
    tail = (1 - confidence) / 2
    low, high = _share_bounds(lost, changed, tail)
    return Change(
        rows=rows,
        before=sum(before) / rows,
        after=sum(after) / rows,
        low=changed / rows * (1 - 2 * high),
        high=changed / rows * (1 - 2 * low),
    )


def change_of_means(before: Sequence[float], after: Sequence[float], confidence: float) -> Change:
    """A mean of numbers: Student's t on the differences."""
    differences = [a - b for b, a in zip(before, after, strict=True)]
    rows, mean = len(before), fmean(differences)
    reach = 1.0
    if rows > 1:
        reach = _student(confidence, rows - 1) * stdev(differences) / math.sqrt(rows)
    return Change(rows, fmean(before), fmean(after), mean - reach, mean + reach)


def _share_bounds(lost: int, changed: int, tail: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of a share of which `lost` of `changed` were seen."""
    low = _solve(lambda p: 1 - _at_most(lost - 1, changed, p) - tail) if lost else 0.0
    high = _solve(lambda p: tail - _at_most(lost, changed, p)) if lost < changed else 1.0
    return low, high


def _at_most(k: int, n: int, p: float) -> float:
    """The chance of k or fewer of n."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _solve(rising: Callable[[float], float], steps: int = 40) -> float:
    """Where a function that rises over [0, 1] passes zero."""
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _student(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, by its expansion in 1 / freedom (Abramowitz, 26.7.5)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
