"""What an adapter is about, drawn from what it learned: one vector for each class of it.

One mean for all would lie between the classes, near to none (docs/routing.md has both). How near a text
must be to count is measured, not set: by the adapter's own examples, each against a portrait drawn
without it, and by texts that no adapter is about.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

CLASSES = 32
"""Vectors of one adapter at most: the largest classes have their own, the rest share one."""

MISSED = 0.05
"""Share of the adapter's own examples that may lie further off than what is near enough."""

STRANGERS = 0.9
"""Share of unrelated texts that must lie further off."""

NEVER = 2.0
"""A similarity that no text reaches."""


@dataclass(frozen=True, slots=True)
class Portrait:
    """vectors [C, D], of length 1; a text is near enough from a cosine of `needed` on to any of them."""

    vectors: Float[ndarray, "C D"]
    needed: float


def portray(
    texts: Float[ndarray, "N D"], classes: Sequence[str], strangers: Float[ndarray, "S D"]
) -> Portrait:
    """The portrait of an adapter that learned `texts`, unit vectors of these classes."""
    own = np.array(_few(classes))
    sums = np.stack([texts[own == c].sum(0) for c in range(own.max() + 1)])
    vectors = _unit(sums)
    needed = float(np.quantile((strangers @ vectors.T).max(1), STRANGERS))
    if len(texts) > 1:
        needed = max(needed, float(np.quantile(_without_itself(texts, own, sums), MISSED)))
    return Portrait(vectors, needed)


def described(
    vector: Float[ndarray, "1 D"], strangers: Float[ndarray, "S D"], trusted: bool
) -> Portrait:
    """The portrait of an adapter that learned nothing here, by a text about it.

    A text must be nearer than every stranger is, or, if the description is not `trusted`, never is near
    enough: the adapter can only be found.
    """
    return Portrait(vector, float((strangers @ vector.T).max()) if trusted else NEVER)


def _few(classes: Sequence[str]) -> list[int]:
    """Classes as numbers from 0, the largest first; those over `CLASSES` share the last."""
    ordered = [name for name, _ in Counter(classes).most_common()]
    number = {name: min(i, CLASSES - 1) for i, name in enumerate(ordered)}
    return [number[name] for name in classes]


def _without_itself(
    texts: Float[ndarray, "N D"], own: ndarray, sums: Float[ndarray, "C D"]
) -> Float[ndarray, "N"]:
    """How near each text is to the portrait that the others make."""
    near = texts @ _unit(sums).T
    alone = np.bincount(own)[own] == 1
    left = (texts * _unit(sums[own] - texts)).sum(1)
    near[np.arange(len(texts)), own] = np.where(alone, -1.0, left)
    return near.max(1)


def _unit(vectors: Float[ndarray, "N D"]) -> Float[ndarray, "N D"]:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
