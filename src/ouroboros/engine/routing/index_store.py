"""Where portraits are kept and searched: by the store if it can, else in this program's memory."""

import base64
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ouroboros.domain.names import AdapterId
from ouroboros.domain.routing import AdapterProfile, RouteMatch
from ouroboros.learning.routing.centroids import TaskCentroids
from ouroboros.learning.routing.index import Index
from ouroboros.registry.profiles import ProfileStore
from ouroboros.stores.vectors.base import VectorStore

_MORE = 8
"""Hits asked for beyond those wanted: some may be of a head that moved a moment ago."""


class CentroidIndex(Protocol):
    """Portraits that outlive the program, and the search among them. Methods block."""

    def sync(self, space: str, wanted: Mapping[AdapterId, str]) -> list[AdapterId]:
        """Have these portraits found, and no others; returns those that are to be drawn first.

        `wanted` says of what each is drawn; `space` names the embedding and the base of all of them.
        """
        ...

    def add(self, adapter: AdapterId, of: str, portrait: TaskCentroids) -> None:
        """Keep a portrait that was drawn, and have it found."""
        ...

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        """The `k` adapters nearest to a unit vector, the nearest first."""
        ...


class InMemoryCentroidIndex:
    """Kept as records, read once, and searched by brute force."""

    def __init__(self, sketches: ProfileStore) -> None:
        self._sketches = sketches
        self._index = Index()
        self._hung: dict[AdapterId, str] = {}
        self._read = False

    def sync(self, space: str, wanted: Mapping[AdapterId, str]) -> list[AdapterId]:
        for adapter in self._hung.keys() - wanted.keys():
            self._index.drop(adapter)
            del self._hung[adapter]
        changed = [a for a, of in wanted.items() if self._hung.get(a) != of]
        kept = {} if self._read else self._sketches.all()
        self._read = True
        missing = []
        for adapter in changed:
            sketch = kept.get(adapter)
            if sketch is not None and sketch.of == wanted[adapter]:
                self._show(adapter, sketch.of, _unpack(sketch))
            else:
                missing.append(adapter)
        return missing

    def add(self, adapter: AdapterId, of: str, portrait: TaskCentroids) -> None:
        self._sketches.put(adapter, _pack(portrait, of))
        self._show(adapter, of, portrait)

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        return self._index.search(text, k)

    def _show(self, adapter: AdapterId, of: str, portrait: TaskCentroids) -> None:
        self._index.put(adapter, portrait)
        self._hung[adapter] = of


class StoredCentroidIndex:
    """Kept with their vectors in a store that searches them: none are in this program's memory."""

    def __init__(self, vectors: VectorStore) -> None:
        self._vectors = vectors
        self._space = ""
        self._wanted: Mapping[AdapterId, str] = {}

    def sync(self, space: str, wanted: Mapping[AdapterId, str]) -> list[AdapterId]:
        self._space, self._wanted = space, wanted
        kept = self._vectors.values(space)
        return [a for a, of in wanted.items() if kept.get(a.name, {}).get("of") != of]

    def add(self, adapter: AdapterId, of: str, portrait: TaskCentroids) -> None:
        value = {"of": of, "needed": portrait.needed}
        self._vectors.put(self._space, adapter.name, value, portrait.vectors.tolist())

    def search(self, text: Float[ndarray, "D"], k: int) -> list[RouteMatch]:
        hits = self._vectors.search(self._space, text.tolist(), k + _MORE)
        found = [(AdapterId(hit.key), hit) for hit in hits]
        return [
            RouteMatch(adapter, hit.similarity, hit.value["needed"])
            for adapter, hit in found
            if self._wanted.get(adapter) == hit.value["of"]
        ][:k]


def _pack(portrait: TaskCentroids, of: str) -> AdapterProfile:
    data = portrait.vectors.astype("<f2").tobytes()
    return AdapterProfile(of, portrait.needed, len(portrait.vectors), base64.b64encode(data).decode())


def _unpack(sketch: AdapterProfile) -> TaskCentroids:
    vectors = np.frombuffer(base64.b64decode(sketch.vectors), "<f2").astype(np.float32)
    return TaskCentroids(vectors.reshape(sketch.count, -1), sketch.needed)
