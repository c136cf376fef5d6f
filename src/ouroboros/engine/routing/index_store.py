"""Where centroids are stored and searched: in a store that can search, else in this program's memory."""

import base64
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ouroboros.domain.names import AdapterId
from ouroboros.domain.routing import AdapterProfile, RouteMatch
from ouroboros.learning.routing.centroids import TaskCentroids
from ouroboros.learning.routing.index import VectorIndex
from ouroboros.registry.profiles import ProfileStore
from ouroboros.stores.vectors.base import VectorStore

_EXTRA_HITS = 8
"""Extra hits to request: some may be of a head that has just moved."""


class CentroidIndex(Protocol):
    """Stored centroids, and the search among them. Methods block."""

    def sync(self, space: str, wanted: Mapping[AdapterId, str]) -> list[AdapterId]:
        """Make exactly these adapters searchable; returns those whose centroids must be computed first.

        `wanted` says what each adapter's are computed from; `space` names their embedding and base.
        """
        ...

    def add(self, adapter: AdapterId, of: str, centroids: TaskCentroids) -> None:
        """Store an adapter's centroids, and make them searchable."""
        ...

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        """The `k` adapters nearest to a unit vector, the nearest first."""
        ...


class InMemoryCentroidIndex:
    """Stored as records, read once, and searched by brute force."""

    def __init__(self, profiles: ProfileStore) -> None:
        self._profiles = profiles
        self._index = VectorIndex()
        self._indexed: dict[AdapterId, str] = {}
        self._read = False

    def sync(self, space: str, wanted: Mapping[AdapterId, str]) -> list[AdapterId]:
        for adapter in self._indexed.keys() - wanted.keys():
            self._index.drop(adapter)
            del self._indexed[adapter]
        changed = [a for a, of in wanted.items() if self._indexed.get(a) != of]
        stored = {} if self._read else self._profiles.read_all()
        self._read = True
        missing = []
        for adapter in changed:
            profile = stored.get(adapter)
            if profile is not None and profile.of == wanted[adapter]:
                self._index_centroids(adapter, profile.of, _unpack(profile))
            else:
                missing.append(adapter)
        return missing

    def add(self, adapter: AdapterId, of: str, centroids: TaskCentroids) -> None:
        self._profiles.put(adapter, _pack(centroids, of))
        self._index_centroids(adapter, of, centroids)

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        return self._index.search(text, k)

    def _index_centroids(self, adapter: AdapterId, of: str, centroids: TaskCentroids) -> None:
        self._index.put(adapter, centroids)
        self._indexed[adapter] = of


class StoredCentroidIndex:
    """Stored with their vectors in a store that searches them; none are in this program's memory."""

    def __init__(self, vectors: VectorStore) -> None:
        self._vectors = vectors
        self._space = ""
        self._wanted: Mapping[AdapterId, str] = {}

    def sync(self, space: str, wanted: Mapping[AdapterId, str]) -> list[AdapterId]:
        self._space, self._wanted = space, wanted
        stored = self._vectors.values(space)
        return [a for a, of in wanted.items() if stored.get(a.name, {}).get("of") != of]

    def add(self, adapter: AdapterId, of: str, centroids: TaskCentroids) -> None:
        value = {"of": of, "needed": centroids.threshold}
        self._vectors.put(self._space, adapter.name, value, centroids.vectors.tolist())

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        hits = self._vectors.search(self._space, text.tolist(), k + _EXTRA_HITS)
        adapters = [(AdapterId(hit.key), hit) for hit in hits]
        return [
            RouteMatch(adapter, hit.similarity, hit.value["needed"])
            for adapter, hit in adapters
            if self._wanted.get(adapter) == hit.value["of"]
        ][:k]


def _pack(centroids: TaskCentroids, of: str) -> AdapterProfile:
    data = centroids.vectors.astype("<f2").tobytes()
    return AdapterProfile(
        of, centroids.threshold, len(centroids.vectors), base64.b64encode(data).decode()
    )


def _unpack(profile: AdapterProfile) -> TaskCentroids:
    vectors = np.frombuffer(base64.b64decode(profile.vectors), "<f2").astype(np.float32)
    return TaskCentroids(vectors.reshape(profile.count, -1), profile.needed)
