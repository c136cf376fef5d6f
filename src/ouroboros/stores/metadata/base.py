"""The metadata store protocol: the few primitives that the registry builds its laws on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

Json: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Record:
    """A stored value and its revision, which grows by one at each write. Revisions start at 1."""

    key: str
    value: Json
    revision: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One item of a log. Sequence numbers start at 1, only grow, and are never reused."""

    seq: int
    value: Json


class MetadataStore(Protocol):
    """Small JSON records in named collections, and append-only logs.

    A write that returned is durable and visible to every process. Methods block (callers use threads)
    and raise `StoreError` when the store cannot do its work.
    """

    def get(self, collection: str, key: str) -> Record | None:
        """The record, or None."""
        ...

    def put(self, collection: str, key: str, value: Json, *, expected: int) -> Record:
        """Write if the record's revision is `expected` (0: there is none yet), else raise `Conflict`."""
        ...

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        """Remove if the record's revision is `expected`, else raise `Conflict`."""
        ...

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        """Records whose key starts with `prefix` and sorts after `after`, in key order (by code point)."""
        ...

    def append(self, log: str, value: Json) -> int:
        """Add to the end of a log; returns the entry's sequence number."""
        ...

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        """Entries with a sequence number above `after`, in order."""
        ...

    def close(self) -> None:
        """Release connections. The store may be used no more."""
        ...
