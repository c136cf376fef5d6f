"""Weights of a merge found by trying, without gradients, as LoraHub does (arXiv 2307.13269)."""

from collections.abc import Generator
from typing import TypeAlias

Weights: TypeAlias = tuple[float, ...]

SCALES = (1.0, 0.7, 0.4)
"""Of the parents' plain sum, first tried whole: small parts survive in a sum what a mean loses."""

STEPS = (0.3, 0.15)
"""Then each parent's weight is moved by these, as long as that helps."""

MAX_TUNING_PROBES = 64
"""Probes that each trial is asked, at most."""


def search_weights(parents: int) -> Generator[Weights, float, Weights]:
    """Yields weights to try and is sent how good they are; returns the best of all tried.

    At most 3 + 4 for each parent are tried.
    """
    best, top = (0.0,) * parents, float("-inf")
    for scale in SCALES:
        tried = (scale,) * parents
        worth = yield tried
        if worth > top:
            best, top = tried, worth
    for step in STEPS:
        for i in range(parents):
            for move in (step, -step):
                tried = (*best[:i], round(best[i] + move, 4), *best[i + 1 :])
                worth = yield tried
                if worth > top:
                    best, top = tried, worth
                    break
    return best
