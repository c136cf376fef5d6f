"""The metadata store protocol: the few primitives that the registry builds its laws on."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ouroboros.domain.errors import StoreError

Json: TypeAlias = Mapping[str, Any]

MAX_KEY = 512


def check_key(key: str) -> None:
    """Refuse a name that some store could not keep: empty, too long, with NUL, or not Unicode."""
    is_unicode = not any("\ud800" <= c <= "\udfff" for c in key)
    if not is_unicode or not 0 < len(key) <= MAX_KEY or "\0" in key:
        raise StoreError(f"{key[:100]!r} is not a key.", hint="Keys are made by the registry only.")


def dump_json(value: Json) -> str:
    """A value as the JSON text that stores keep; refuses what JSON does not have, such as NaN."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"A value cannot be stored as JSON: {error}.", hint="Use finite numbers and valid Unicode."
        ) from None
    return text


@dataclass(frozen=True, slots=True)
class Record:
    """A stored value and its revision, which grows by one at each write. Revisions start at 1."""

    key: str
    value: Json
    revision: int


@dataclass(frozen=True, slots=True)
class LogEntry:
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
        """Records whose key starts with `prefix` and sorts after `after`, by code point."""
        ...

    def append(self, log: str, value: Json) -> int:
        """Add to the end of a log; returns the entry's sequence number."""
        ...

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """Entries with a sequence number above `after`, in order."""
        ...

    def erase(self, log: str, first: int, last: int) -> None:
        """Remove the entries `first` to `last` for good; their sequence numbers are not used again."""
        ...

    def scrub(self) -> None:
        """See that the store's own files hold no trace of what was erased, deleted or overwritten."""
        ...

    def collections(self) -> list[str]:
        """Names of the collections that hold a record, in order."""
        ...

    def logs(self) -> list[str]:
        """Names of the logs that hold an entry or once did, in order."""
        ...

    def last(self, log: str) -> int:
        """The highest sequence number ever given out in a log; 0 if none was."""
        ...

    def close(self) -> None:
        """Release connections. The store may be used no more."""
        ...
