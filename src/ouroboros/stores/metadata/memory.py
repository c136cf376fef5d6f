"""Metadata in this process's memory: for tests and for trying things."""

import copy
import threading
from collections import defaultdict

from ouroboros.domain.errors import Conflict
from ouroboros.stores.metadata.base import Entry, Json, Record


class MemoryMetadata:
    """Everything in dictionaries under one lock; gone when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: defaultdict[str, dict[str, Record]] = defaultdict(dict)
        self._logs: defaultdict[str, list[Json]] = defaultdict(list)

    def get(self, collection: str, key: str) -> Record | None:
        with self._lock:
            return copy.deepcopy(self._records[collection].get(key))

    def put(self, collection: str, key: str, value: Json, *, expected: int) -> Record:
        with self._lock:
            self._require(collection, key, expected)
            record = Record(key, copy.deepcopy(value), expected + 1)
            self._records[collection][key] = record
            return copy.deepcopy(record)

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        with self._lock:
            self._require(collection, key, expected)
            self._records[collection].pop(key, None)

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        with self._lock:
            keys = sorted(k for k in self._records[collection] if k.startswith(prefix) and k > after)
            return [copy.deepcopy(self._records[collection][k]) for k in keys[:limit]]

    def append(self, log: str, value: Json) -> int:
        with self._lock:
            self._logs[log].append(copy.deepcopy(value))
            return len(self._logs[log])

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        with self._lock:
            values = self._logs[log][after : after + limit]
            return [Entry(after + i, copy.deepcopy(v)) for i, v in enumerate(values, start=1)]

    def close(self) -> None:
        """Nothing to release."""

    def _require(self, collection: str, key: str, expected: int) -> None:
        record = self._records[collection].get(key)
        found = record.revision if record else 0
        if found != expected:
            raise Conflict(
                f"{collection} {key!r} is at revision {found}, not {expected}: somebody else wrote it.",
                hint="Read it again and decide anew.",
            )
