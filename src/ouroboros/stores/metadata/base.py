"""The metadata store protocol: the few primitives that the registry builds its guarantees on."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from ouroboros.domain.errors import Conflict, StoreError

Json: TypeAlias = Mapping[str, Any]

MAX_KEY = 512


def check_key(key: str) -> None:
    """Raise `StoreError` for an invalid key: empty, too long, with NUL, or not Unicode."""
    is_unicode = not any("\ud800" <= c <= "\udfff" for c in key)
    if not is_unicode or not 0 < len(key) <= MAX_KEY or "\0" in key:
        raise StoreError(f"{key[:100]!r} is not a key.", hint="Only the registry makes keys.")


def dump_json(value: Json) -> str:
    """Serialise a value as compact JSON. Raises `StoreError` for values that JSON lacks, such as NaN."""
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise StoreError(
            f"A value cannot be stored as JSON: {error}.", hint="Use finite numbers and valid Unicode."
        ) from None
    return text


UNREADABLE = "unreadable"
"""The key under which a damaged value is returned: whatever text is stored in its place."""


def parse_json(text: str) -> Json:
    """Parse a stored value. What is no JSON object was damaged: it is returned as `UNREADABLE`."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {UNREADABLE: text}
    return value if isinstance(value, dict) else {UNREADABLE: text}


@dataclass(frozen=True, slots=True)
class Record:
    """A stored value and its revision. Revisions start at 1 and grow by one with each write."""

    key: str
    value: Json
    revision: int


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a log. Sequence numbers start at 1, only grow and are never reused."""

    seq: int
    value: Json


@dataclass(frozen=True, slots=True)
class Guard:
    """A condition on another record: the number in its `field` is `value`.

    A write with guards takes effect only while all of them hold. A missing record or field counts as 0.
    """

    collection: str
    key: str
    field: str
    value: int

    def holds(self, record: Json | None) -> bool:
        """Whether the guarded record still has the expected number."""
        return (record or {}).get(self.field, 0) == self.value

    def error(self) -> "Fenced":
        """Returns the error for a write that came too late."""
        return Fenced(
            f"{self.collection} {self.key!r}: another writer took over, or data was erased, while this"
            " was under way. Nothing was stored.",
            hint="Try again.",
        )


class Fenced(Conflict):
    """A guard of a write does not hold any more: the writer must start over from what is stored now."""


class MetadataStore(Protocol):
    """Small JSON records in named collections, and append-only logs.

    A write that returned is durable and visible to every process. Methods block (callers use threads).
    They raise `StoreError` when the store fails.
    """

    def get(self, collection: str, key: str) -> Record | None:
        """Return the record, or None if it does not exist."""
        ...

    def put(
        self, collection: str, key: str, value: Json, *, expected: int, guards: Sequence[Guard] = ()
    ) -> Record:
        """Write the record and return it.

        Raises `Conflict` unless its revision is `expected` (0: absent), and `Fenced` unless all `guards`
        hold. Guards are compared in the transaction of the write.
        """
        ...

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        """Delete the record. Raises `Conflict` unless its revision is `expected`."""
        ...

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        """Return up to `limit` records whose key starts with `prefix` and sorts after `after`, in code
        point order."""
        ...

    def append(self, log: str, value: Json, *, guards: Sequence[Guard] = ()) -> int:
        """Append an entry to a log and return its sequence number.

        Raises `Fenced` unless all `guards` hold. They are compared in the transaction of the write.
        """
        ...

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        """Return up to `limit` entries with a sequence number above `after`, in order."""
        ...

    def erase(self, log: str, first: int, last: int) -> None:
        """Delete the entries `first` to `last` permanently. Their sequence numbers are not reused."""
        ...

    def scrub(self) -> None:
        """Remove every trace of erased, deleted and overwritten values from the store's own files."""
        ...

    def collections(self) -> list[str]:
        """Return the names of the collections that hold a record, in order."""
        ...

    def logs(self) -> list[str]:
        """Return the names of the logs that hold or once held an entry, in order."""
        ...

    def last(self, log: str) -> int:
        """Return the highest sequence number ever used in a log; 0 if it never had an entry."""
        ...

    def close(self) -> None:
        """Release connections. The store cannot be used afterwards."""
        ...
