"""Paired confidence intervals: how far a mean moved between two measurements of the same items.

Items that did not change do not widen the intervals, however many there are.
"""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist, fmean, stdev

from ouroboros.domain.verdict import Change


def compare_answers(before: Sequence[bool], after: Sequence[bool], confidence: float) -> Change:
    """Compare the shares of right answers, with an exact interval (McNemar; Clopper and Pearson).

    The interval bounds the share of losses among the answers that changed. One answer lost of ten may be
    chance, for it could as well have been gained; five lost of ten are not.
    """
    lost = sum(b and not a for b, a in zip(before, after, strict=True))
    gained = sum(a and not b for b, a in zip(before, after, strict=True))
    changed, rows = lost + gained, len(before)
    tail = (1 - confidence) / 2
    low, high = _clopper_pearson(lost, changed, tail)
    return Change(
        rows=rows,
        before=sum(before) / rows,
        after=sum(after) / rows,
        low=changed / rows * (1 - 2 * high),
        high=changed / rows * (1 - 2 * low),
    )


def compare_means(before: Sequence[float], after: Sequence[float], confidence: float) -> Change:
    """Compare two means, with Student's t interval of the differences; one pair alone tells nothing."""
    differences = [a - b for b, a in zip(before, after, strict=True)]
    rows, mean = len(before), fmean(differences)
    half_width = 1.0
    if rows > 1:
        half_width = _student_t_quantile(confidence, rows - 1) * stdev(differences) / math.sqrt(rows)
    return Change(rows, fmean(before), fmean(after), mean - half_width, mean + half_width)


def _clopper_pearson(lost: int, changed: int, tail: float) -> tuple[float, float]:
    """Clopper and Pearson's bounds of a share, from `lost` of `changed` observations."""
    low = _find_root(lambda p: 1 - _binomial_cdf(lost - 1, changed, p) - tail) if lost else 0.0
    high = _find_root(lambda p: tail - _binomial_cdf(lost, changed, p)) if lost < changed else 1.0
    return low, high


def _binomial_cdf(k: int, n: int, p: float) -> float:
    """The probability of at most k successes in n trials, each of probability p."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _find_root(rising: Callable[[float], float], steps: int = 40) -> float:
    """Find the root of an increasing function on [0, 1], by bisection."""
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _student_t_quantile(confidence: float, freedom: int) -> float:
    """The two-sided quantile of Student's t, by its expansion in 1 / freedom (Abramowitz, 26.7.5)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
