"""Metadata in this process's memory, for tests and experiments."""

import threading
from collections import defaultdict
from collections.abc import Sequence

from ouroboros.domain.errors import Conflict
from ouroboros.stores.metadata.base import (
    Guard,
    Json,
    LogEntry,
    Record,
    check_key,
    dump_json,
    parse_json,
)


class MemoryMetadata:
    """Records and logs as JSON text in dictionaries under one lock, lost when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._records: defaultdict[str, dict[str, tuple[str, int]]] = defaultdict(dict)
        self._logs: defaultdict[str, dict[int, str]] = defaultdict(dict)
        self._last: defaultdict[str, int] = defaultdict(int)

    def get(self, collection: str, key: str) -> Record | None:
        with self._lock:
            stored = self._records[collection].get(key)
        return _to_record(key, *stored) if stored else None

    def put(
        self, collection: str, key: str, value: Json, *, expected: int, guards: Sequence[Guard] = ()
    ) -> Record:
        check_key(collection)
        check_key(key)
        text = dump_json(value)
        with self._lock:
            self._check_guards(guards)
            self._check_revision(collection, key, expected)
            self._records[collection][key] = (text, expected + 1)
        return _to_record(key, text, expected + 1)

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        with self._lock:
            self._check_revision(
                collection, key, expected or -1
            )  # revision 0 is an absent record, which cannot be deleted
            del self._records[collection][key]

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        with self._lock:
            records = self._records[collection]
            keys = sorted(k for k in records if k.startswith(prefix) and k > after)
            return [_to_record(k, *records[k]) for k in keys[:limit]]

    def append(self, log: str, value: Json, *, guards: Sequence[Guard] = ()) -> int:
        check_key(log)
        text = dump_json(value)
        with self._lock:
            self._check_guards(guards)
            self._last[log] += 1
            self._logs[log][self._last[log]] = text
            return self._last[log]

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        with self._lock:
            entries = [(seq, text) for seq, text in self._logs[log].items() if seq > after][:limit]
        return [LogEntry(seq, parse_json(text)) for seq, text in entries]

    def erase(self, log: str, first: int, last: int) -> None:
        with self._lock:
            remaining = {s: t for s, t in self._logs[log].items() if not first <= s <= last}
            self._logs[log] = remaining

    def scrub(self) -> None:
        """Nothing to do: removed values are not retained."""

    def collections(self) -> list[str]:
        with self._lock:
            return sorted(name for name, records in self._records.items() if records)

    def logs(self) -> list[str]:
        with self._lock:
            return sorted(self._last)

    def last(self, log: str) -> int:
        with self._lock:
            return self._last.get(log, 0)

    def close(self) -> None:
        """Nothing to release."""

    def _check_guards(self, guards: Sequence[Guard]) -> None:
        for guard in guards:
            text, _ = self._records[guard.collection].get(guard.key, ("{}", 0))
            if not guard.holds(parse_json(text)):
                raise guard.error()

    def _check_revision(self, collection: str, key: str, expected: int) -> None:
        _, revision = self._records[collection].get(key, ("", 0))
        if revision != expected:
            raise Conflict(
                f"{collection} {key!r} is at revision {revision}, not {expected}:"
                " another writer changed it.",
                hint="Read it again and retry.",
            )


def _to_record(key: str, text: str, revision: int) -> Record:
    return Record(key, parse_json(text), revision)
