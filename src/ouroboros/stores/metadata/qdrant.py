"""Metadata in a Qdrant server: records and logs as points, in a store without transactions.

Qdrant has conditional writes but does not report whether the condition held. So each write carries a
nonce, and reading the point back shows who won. A record also stores the nonces of the writes before it:
a writer that finds its own nonce among them succeeded, and one that finds only the nonce it read before
lost. docs/decisions/0013-qdrant.md has the full argument.
"""

import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from secrets import token_hex
from typing import Any

from ouroboros.domain.errors import Conflict, StoreError
from ouroboros.stores.metadata.base import (
    Fenced,
    Guard,
    Json,
    LogEntry,
    Record,
    check_key,
    dump_json,
    parse_json,
)
from ouroboros.stores.qdrant.points import FREED_AT, Payload, Points
from ouroboros.stores.qdrant.server import QdrantServer

REMEMBERED_WRITES = 64
"""Number of earlier writes whose nonces a record stores."""

TOMBSTONE_SECONDS = 86_400
"""Age at which an emptied point may be deleted. Until then a writer that read it before it was emptied
still finds it."""

_ID_NAMESPACE = uuid.UUID("3f0c6c0e-7a5e-4c57-9d0c-6f75726f626f")
_RECORDS, _LOGS = "records/", "logs/"
_REVISION_FIELDS = ("nonce", "past", "revision", FREED_AT)


class QdrantMetadata:
    """Records and logs in one collection of a Qdrant server, which is created at the first use.

    A deleted record and an erased entry leave an empty point (a tombstone), so that a late write cannot
    take its place. The next deletion or `scrub` after a day removes it. The last point of a log stays.
    """

    def __init__(self, server: QdrantServer) -> None:
        self._server = server
        try:
            self._points = Points(server)
        except BaseException:
            self.close()
            raise

    def get(self, collection: str, key: str) -> Record | None:
        id = _point_id(_RECORDS + collection, key)
        payload = self._points.get([id]).get(id)
        return _to_record(key, payload) if payload and FREED_AT not in payload else None

    def put(
        self, collection: str, key: str, value: Json, *, expected: int, guards: Sequence[Guard] = ()
    ) -> Record:
        """Write the record. Without transactions, guards are compared before the write and after it.

        A write that a guard forbids is undone, and visible until then.
        """
        check_key(collection)
        check_key(key)
        text = dump_json(value)
        self._check_guards(guards)
        previous = self.get(collection, key) if guards else None
        self._compare_and_set(collection, key, expected, {"value": text})
        try:
            self._check_guards(guards)
        except Fenced:
            with suppress(Conflict):  # another writer replaced it already
                if previous is None:
                    self.delete(collection, key, expected=expected + 1)
                else:
                    self.put(collection, key, previous.value, expected=expected + 1)
            raise
        return Record(key, parse_json(text), expected + 1)

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        if expected < 1:
            raise _conflict_error(collection, key, expected)
        self._compare_and_set(collection, key, expected, {FREED_AT: _now_seconds()})
        self._points.delete_freed(_RECORDS + collection, _now_seconds() - TOMBSTONE_SECONDS)

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        """Read all keys, which are small, then the values of up to `limit` of them."""
        keys = sorted(k for k in self._points.list_keys(_RECORDS + collection, prefix) if k[0] > after)
        records: list[Record] = []
        while keys and len(records) < limit:  # more pages, if some were deleted meanwhile
            page, keys = keys[: limit - len(records)], keys[limit - len(records) :]
            values = self._points.get([id for _, id in page])
            payloads = ((key, values.get(id)) for key, id in page)
            records += [
                _to_record(key, value) for key, value in payloads if value and FREED_AT not in value
            ]
        return records

    def append(self, log: str, value: Json, *, guards: Sequence[Guard] = ()) -> int:
        """Append by inserting the next sequence number; a writer that loses the race tries the following
        one. Guards are compared before and after, and an entry that they forbid is erased again.
        """
        check_key(log)
        text, nonce, group = dump_json(value), token_hex(8), _LOGS + log
        self._check_guards(guards)
        seq = self._points.last_seq(group)
        while True:
            seq += 1
            id = _point_id(group, str(seq))
            entry = {"group": group, "seq": seq, "nonce": nonce, "value": text}
            self._points.insert(id, entry)
            winner = self._points.get([id], ["nonce"]).get(id)
            if winner is None:
                raise _unknown_outcome_error(f"Entry {seq} of {log!r} is missing after it was written")
            if winner["nonce"] == nonce:
                break
        try:
            self._check_guards(guards)
        except Fenced:
            self.erase(log, seq, seq)
            raise
        return seq

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        payloads = self._points.read_log(_LOGS + log, after, limit)
        return [LogEntry(p["seq"], parse_json(p["value"])) for p in payloads]

    def erase(self, log: str, first: int, last: int) -> None:
        group = _LOGS + log
        self._points.clear_values(group, first, last, _now_seconds())
        self._points.delete_freed(
            group, _now_seconds() - TOMBSTONE_SECONDS, below=self._points.last_seq(group)
        )

    def scrub(self) -> None:
        """Delete the points that have been empty for a day, except the last one of each log.

        Qdrant's own files and log keep overwritten values until its optimizers rewrite them, and no
        request triggers that. So this store does not fulfil the guarantee of `scrub`.
        """
        cutoff = _now_seconds() - TOMBSTONE_SECONDS
        for group in self._points.list_groups(_RECORDS, with_values=False):
            self._points.delete_freed(group, cutoff)
        for group in self._points.list_groups(_LOGS, with_values=False):
            self._points.delete_freed(group, cutoff, below=self._points.last_seq(group))

    def collections(self) -> list[str]:
        groups = self._points.list_groups(_RECORDS, with_values=True)
        return sorted(group.removeprefix(_RECORDS) for group in groups)

    def logs(self) -> list[str]:
        return sorted(g.removeprefix(_LOGS) for g in self._points.list_groups(_LOGS, with_values=False))

    def last(self, log: str) -> int:
        return self._points.last_seq(_LOGS + log)

    def close(self) -> None:
        self._server.close()

    def _check_guards(self, guards: Sequence[Guard]) -> None:
        for guard in guards:
            record = self.get(guard.collection, guard.key)
            if not guard.holds(record.value if record else None):
                raise guard.error()

    def _compare_and_set(
        self, collection: str, key: str, expected: int, content: dict[str, Any]
    ) -> None:
        """Write the record, or raise `Conflict` unless it is at `expected`. A tombstone is at revision
        0.

        Raises `StoreError` if the outcome of the write cannot be determined.
        """
        # 1. Read the revision and the nonce that the write builds on.
        group = _RECORDS + collection
        id = _point_id(group, key)
        previous = self._points.get([id], _REVISION_FIELDS).get(id)
        if _revision_of(previous) != expected:
            raise _conflict_error(collection, key, expected)
        # 2. Write with a new nonce, on the condition that the point is unchanged.
        nonce, previous_nonce = token_hex(8), previous["nonce"] if previous else ""
        past_nonces = [previous_nonce, *(previous["past"] if previous else ())][:REMEMBERED_WRITES]
        revision_fields = {"revision": expected + 1, "nonce": nonce, "past": past_nonces}
        payload = {"group": group, "key": key, **revision_fields, **content}
        if previous is None:
            self._points.insert(id, payload)
        else:
            self._points.replace(id, payload, previous_nonce)
        # 3. Read it back: Qdrant does not report whether the condition held.
        current = self._points.get([id], _REVISION_FIELDS).get(id)
        if current is None and previous is not None and FREED_AT in previous:
            # Its tombstone was deleted meanwhile: insert instead.
            return self._compare_and_set(collection, key, expected, content)
        known_nonces = (current["nonce"], *current["past"]) if current else ()
        if nonce in known_nonces:
            return None
        if previous_nonce in known_nonces:
            raise _conflict_error(collection, key, expected)
        raise _unknown_outcome_error(
            f"{collection} {key!r} was written over {REMEMBERED_WRITES} times since, or is gone"
        )


def _point_id(group: str, key: str) -> str:
    """The id of a key's point. NUL separates the names, because neither contains it."""
    return str(uuid.uuid5(_ID_NAMESPACE, f"{group}\0{key}"))


def _to_record(key: str, payload: Payload) -> Record:
    return Record(key, parse_json(payload["value"]), payload["revision"])


def _revision_of(payload: Payload | None) -> int:
    return 0 if payload is None or FREED_AT in payload else payload["revision"]


def _now_seconds() -> int:
    return int(time.time())


def _conflict_error(collection: str, key: str, expected: int) -> Conflict:
    return Conflict(
        f"{collection} {key!r} is not at revision {expected}: another writer changed it.",
        hint="Read it again and retry.",
    )


def _unknown_outcome_error(reason: str) -> StoreError:
    return StoreError(
        f"{reason}, so it is unknown whether this write succeeded.", hint="Read it again and retry."
    )
