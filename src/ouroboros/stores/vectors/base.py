"""The vector store protocol: what a store offers that searches vectors by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ouroboros.stores.metadata.base import Json


@dataclass(frozen=True, slots=True)
class Hit:
    """A key that was found, and the cosine of the question and the nearest of its vectors."""

    key: str
    similarity: float
    value: Json


class VectorStore(Protocol):
    """Keys with a small JSON value and several vectors each, in spaces of one dimension.

    A cache: the last write of a key stands, and whoever uses it can make again what is missing.
    Methods block and raise `StoreError`.
    """

    def put(self, space: str, key: str, value: Json, vectors: Sequence[Sequence[float]]) -> None:
        """Keep these instead of what was kept under the key; vectors [C, D], C at least 1."""
        ...

    def values(self, space: str) -> dict[str, Json]:
        """The value of every key; nothing if the space was never written to."""
        ...

    def search(self, space: str, vector: Sequence[float], k: int) -> list[Hit]:
        """The `k` keys with a vector nearest to this one, [D], the nearest first."""
        ...

    def drop(self, key: str) -> None:
        """Remove a key from every space."""
        ...

    def close(self) -> None:
        """Release connections. The store may be used no more."""
        ...
