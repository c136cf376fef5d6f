"""The centroids of an adapter: one vector for each class that it learned, and a threshold.

A single mean would lie between the classes, near none of them (docs/routing.md compares both). The
threshold is measured: from the adapter's own examples, each compared with centroids computed without it,
and from background texts that belong to no adapter. If the two are well separated, nearly all of its own
pass; if not, more of them are given up to keep background texts out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MAX_CLASSES = 32
"""Most vectors of one adapter: the largest classes have one each, the others share the last."""

CENTROIDS_VERSION = 3
"""Raised when centroids are computed differently: stored ones are then computed again."""

MISSED, GIVEN_UP = 0.05, 0.15
"""Share of the adapter's own examples below the threshold: always the first, and up to the second if
background texts are near."""

STRANGERS, BEYOND = 0.9, 4.0
"""Share of background texts that must be below the threshold; and how many standard deviations above
their mean it is set, as far as `GIVEN_UP` allows: they are too few to estimate their maximum."""

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
    """Compute the centroids of an adapter that learned `texts`, unit vectors, of these classes."""
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
    """Use the vector of a description as the centroid of an adapter that learned nothing in this store.

    A text must be nearer than every background text. If the description is not `trusted`, no text is
    near enough: a search finds the adapter, but it is never chosen.
    """
    return TaskCentroids(vector, float((background @ vector.T).max()) if trusted else UNREACHABLE)


def number_classes(classes: Sequence[str]) -> list[int]:
    """Number the classes from 0, the largest first; those beyond `MAX_CLASSES` share the last number."""
    ordered = [name for name, _ in Counter(classes).most_common()]
    number = {name: min(i, MAX_CLASSES - 1) for i, name in enumerate(ordered)}
    return [number[name] for name in classes]


def compare_without_itself(
    texts: Float[ndarray, "N D"], class_numbers: ndarray, sums: Float[ndarray, "C D"]
) -> Float[ndarray, "M"]:
    """Return each text's similarity to the nearest centroid, computed without that text.

    The only text of a class is left out.
    """
    near = texts @ normalize_vectors(sums).T
    near[np.arange(len(texts)), class_numbers] = (
        texts * normalize_vectors(sums[class_numbers] - texts)
    ).sum(1)
    return near.max(1)[np.bincount(class_numbers)[class_numbers] > 1]


def normalize_vectors(vectors: Float[ndarray, "N D"]) -> Float[ndarray, "N D"]:
    """Scale each vector to length one; a vector of zeros stays zero."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12)
