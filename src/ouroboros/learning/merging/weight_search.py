"""Search of a merge's weights by trial, without gradients, as in LoraHub (arXiv 2307.13269)."""

from collections.abc import Generator
from typing import TypeAlias

Weights: TypeAlias = tuple[float, ...]

SCALES = (1.0, 0.7, 0.4)
"""Multiples of the parents' sum, tried first: a mean would shrink what one parent alone knows."""

STEPS = (0.3, 0.15)
"""Steps by which each parent's weight is then moved, if that helps."""

MAX_TUNING_PROBES = 64
"""Most probes that score one trial."""


def search_weights(parents: int) -> Generator[Weights, float, Weights]:
    """Yield weights to try, and receive the score of each; returns the best.

    At most 3 + 4 x parents are tried.
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
