"""What an adapter is about, drawn from what it learned: one vector for each class of it.

One mean for all would lie between the classes, near to none (docs/routing.md has both). How near a text
must be to count is measured, not set: by the adapter's own examples, each against a portrait drawn
without it, and by texts that no adapter is about. Where the two lie well apart, nearly all of its own
are near enough; where they do not, more of its own are given up to keep strangers out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MAX_CLASSES = 32
"""Vectors of one adapter at most: the largest classes have their own, the rest share one."""

CENTROIDS_VERSION = 3
"""Raised when portraits are drawn in another way: those that are stored are drawn anew."""

MISSED, GIVEN_UP = 0.05, 0.15
"""Share of the adapter's own examples that lie further off than what is near enough: so many always, and
up to so many if strangers are near."""

STRANGERS, BEYOND = 0.9, 4.0
"""Share of unrelated texts that must lie further off; and how many standard deviations above their
mean near enough begins, as far as `GIVEN_UP` allows. They are too few to tell how near one gets."""

UNREACHABLE = 2.0
"""A similarity that no text reaches."""


@dataclass(frozen=True, slots=True)
class TaskCentroids:
    """Unit vectors [C, D]; a text matches if its cosine to any of them is at least `threshold`."""

    vectors: Float[ndarray, "C D"]
    threshold: float


def compute_centroids(
    texts: Float[ndarray, "N D"], classes: Sequence[str], background: Float[ndarray, "S D"]
) -> TaskCentroids:
    """The portrait of an adapter that learned `texts`, unit vectors of these classes; at least one."""
    class_numbers = np.array(number_classes(classes))
    sums = np.stack([texts[class_numbers == c].sum(0) for c in range(class_numbers.max() + 1)])
    vectors = normalize_vectors(sums)
    others = (background @ vectors.T).max(1)
    beyond = others.mean() + BEYOND * others.std()
    known = compare_without_itself(texts, class_numbers, sums)
    if len(known):
        few, more = np.quantile(known, (MISSED, GIVEN_UP))
        beyond = max(few, min(more, beyond))
    return TaskCentroids(vectors, float(max(beyond, np.quantile(others, STRANGERS))))


def compute_description_centroid(
    vector: Float[ndarray, "1 D"], background: Float[ndarray, "S D"], trusted: bool
) -> TaskCentroids:
    """The portrait of an adapter that learned nothing here, by a text about it.

    A text must be nearer than every stranger is, or, if the description is not `trusted`, never is near
    enough: the adapter can only be found.
    """
    return TaskCentroids(vector, float((background @ vector.T).max()) if trusted else UNREACHABLE)


def number_classes(classes: Sequence[str]) -> list[int]:
    """Classes as numbers from 0, the largest first; those over `MAX_CLASSES` share the last."""
    ordered = [name for name, _ in Counter(classes).most_common()]
    number = {name: min(i, MAX_CLASSES - 1) for i, name in enumerate(ordered)}
    return [number[name] for name in classes]


def compare_without_itself(
    texts: Float[ndarray, "N D"], class_numbers: ndarray, sums: Float[ndarray, "C D"]
) -> Float[ndarray, "M"]:
    """How near each text is to the portrait that the others make; lone ones of a class tell nothing."""
    near = texts @ normalize_vectors(sums).T
    near[np.arange(len(texts)), class_numbers] = (
        texts * normalize_vectors(sums[class_numbers] - texts)
    ).sum(1)
    return near.max(1)[np.bincount(class_numbers)[class_numbers] > 1]


def normalize_vectors(vectors: Float[ndarray, "N D"]) -> Float[ndarray, "N D"]:
    """Scale each vector to length one; a vector of zeros stays zero."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
