"""The vector store protocol: nearest-neighbour search over vectors with a key and a value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ouroboros.stores.metadata.base import Json


@dataclass(frozen=True, slots=True)
class Hit:
    """A search result: a key, and the cosine similarity of the query to the nearest of its vectors."""

    key: str
    similarity: float
    value: Json


class VectorStore(Protocol):
    """Keys with a small JSON value and several vectors each, in spaces of one dimension.

    It is a cache: the last write of a key wins, and callers can recreate missing keys. Methods block.
    They raise `StoreError` when the store fails.
    """

    def put(self, space: str, key: str, value: Json, vectors: Sequence[Sequence[float]]) -> None:
        """Set the value and vectors of a key; vectors [C, D], C at least 1."""
        ...

    def values(self, space: str) -> dict[str, Json]:
        """Return the value of every key; empty if the space was never written to."""
        ...

    def search(self, space: str, vector: Sequence[float], k: int) -> list[Hit]:
        """Return the `k` keys whose nearest vector is closest to `vector` [D], the closest first."""
        ...

    def drop(self, key: str) -> None:
        """Delete a key from every space."""
        ...

    def close(self) -> None:
        """Release connections. The store cannot be used afterwards."""
        ...
