"""Searching portraits: every vector of every adapter against a text, by brute force.

One product of a matrix with a vector: exact, and there is nothing to build or to tune.
"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ouroboros.domain.finding import Found
from ouroboros.domain.names import AdapterId
from ouroboros.learning.portraits import Portrait


class Index:
    """Portraits in one matrix, which is laid out anew by the first search after a change."""

    def __init__(self) -> None:
        self._portraits: dict[AdapterId, Portrait] = {}
        self._laid_out: _Matrix | None = None

    def put(self, adapter: AdapterId, portrait: Portrait) -> None:
        self._portraits[adapter] = portrait
        self._laid_out = None

    def drop(self, adapter: AdapterId) -> None:
        if self._portraits.pop(adapter, None) is not None:
            self._laid_out = None

    def search(self, text: Float[ndarray, "D"], k: int) -> list[Found]:
        """The `k` adapters nearest to a unit vector, the nearest first."""
        if not self._portraits:
            return []
        if self._laid_out is None:
            self._laid_out = _Matrix(self._portraits)
        return self._laid_out.search(text, k)


class _Matrix:
    """Rows of one adapter stand together, from its entry in `starts` on."""

    def __init__(self, portraits: dict[AdapterId, Portrait]) -> None:
        self._adapters = list(portraits)
        self._needed = [p.needed for p in portraits.values()]
        self._rows = np.concatenate([p.vectors for p in portraits.values()]).astype(np.float32)
        sizes = [len(p.vectors) for p in portraits.values()]
        self._starts = np.cumsum([0, *sizes[:-1]])

    def search(self, text: Float[ndarray, "D"], k: int) -> list[Found]:
        nearest = np.maximum.reduceat(self._rows @ text.astype(np.float32), self._starts)
        best = np.argsort(-nearest, kind="stable")[:k]
        return [Found(self._adapters[i], float(nearest[i]), self._needed[i]) for i in best]
