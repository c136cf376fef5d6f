"""Brute-force search of the adapters' centroids.

One product of a vector with a matrix is exact, and there is no index to build or tune. It takes the time
to read the matrix from memory. Centroids are the columns: the product then adds up whole rows, which is
about twice as fast as dot products with rows.
"""

import threading
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ouroboros.domain.names import AdapterId
from ouroboros.domain.routing import RouteMatch
from ouroboros.learning.routing.centroids import TaskCentroids

_INITIAL_COLUMNS = 256
"""Columns at first; their number doubles when they are used up."""


@dataclass(frozen=True, slots=True)
class _ColumnRange:
    """The columns that one adapter has, or had."""

    adapter: AdapterId
    start: int
    end: int
    threshold: float

    @property
    def size(self) -> int:
        return self.end - self.start


class VectorIndex:
    """The centroids of all adapters as the columns of one matrix [D, V].

    Changed centroids are written in place if there are as many as before, otherwise at the end, which
    leaves a gap. Gaps are closed when they are more than half of all columns. Methods may be called from
    many threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._columns: Float[ndarray, "D V"] = np.empty((0, 0), np.float32)
        self._ranges: list[_ColumnRange] = []
        self._place: dict[AdapterId, int] = {}
        self._gaps: list[int] = []
        self._starts: ndarray | None = None

    def put(self, adapter: AdapterId, centroids: TaskCentroids) -> None:
        """Add an adapter's centroids in place of those that it has."""
        with self._lock:
            place = self._place.get(adapter)
            if place is None or self._ranges[place].size != len(centroids.vectors):
                self._drop(adapter)
                place = self._append(adapter, centroids)
            stretch = replace(self._ranges[place], threshold=centroids.threshold)
            self._ranges[place] = stretch
            self._columns[:, stretch.start : stretch.end] = centroids.vectors.T

    def drop(self, adapter: AdapterId) -> None:
        """Remove an adapter's centroids, if it has any."""
        with self._lock:
            self._drop(adapter)

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        """The `k` adapters nearest to a unit vector, the nearest first."""
        with self._lock:
            if not self._place:
                return []
            if self._starts is None:
                self._starts = np.array([s.start for s in self._ranges])
            near = text.astype(np.float32) @ self._columns[:, : self._end]
            nearest = np.maximum.reduceat(near, self._starts)
            nearest[self._gaps] = -np.inf
            return [self._match(i, nearest) for i in find_largest(nearest, min(k, len(self._place)))]

    def _match(self, place: int, nearest: Float[ndarray, "S"]) -> RouteMatch:
        stretch = self._ranges[place]
        return RouteMatch(stretch.adapter, float(nearest[place]), stretch.threshold)

    @property
    def _end(self) -> int:
        return self._ranges[-1].end if self._ranges else 0

    def _append(self, adapter: AdapterId, centroids: TaskCentroids) -> int:
        start = self._end
        stretch = _ColumnRange(adapter, start, start + len(centroids.vectors), centroids.threshold)
        if stretch.end > self._columns.shape[1]:
            larger = np.empty(
                (centroids.vectors.shape[1], max(_INITIAL_COLUMNS, 2 * stretch.end)), np.float32
            )
            if start:
                larger[:, :start] = self._columns[:, :start]
            self._columns = larger
        self._place[adapter] = len(self._ranges)
        self._ranges.append(stretch)
        self._starts = None
        return self._place[adapter]

    def _drop(self, adapter: AdapterId) -> None:
        place = self._place.pop(adapter, None)
        if place is not None:
            self._gaps.append(place)
            if 2 * sum(self._ranges[i].size for i in self._gaps) > self._end:
                self._close_gaps()

    def _close_gaps(self) -> None:
        ranges = [self._ranges[i] for i in sorted(self._place.values())]
        columns = [self._columns[:, s.start : s.end] for s in ranges]
        self._columns = np.concatenate(
            [*columns, np.empty((len(self._columns), _INITIAL_COLUMNS), np.float32)], 1
        )
        self._ranges, self._place, self._gaps, self._starts = [], {}, [], None
        for stretch in ranges:
            start = self._end
            self._place[stretch.adapter] = len(self._ranges)
            self._ranges.append(replace(stretch, start=start, end=start + stretch.size))


def find_largest(numbers: Float[ndarray, "S"], k: int) -> list[int]:
    """Return the indices of the `k` largest numbers, largest first; equal ones in their order."""
    some = np.argpartition(-numbers, k - 1)[:k].tolist()
    return sorted(some, key=lambda i: (-numbers[i], i))
