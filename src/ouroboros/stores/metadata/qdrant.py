"""Metadata in a Qdrant server: records and logs as points, in a store that has no transactions.

Qdrant writes on a condition, but does not say whether it held. So each write carries a nonce, and what
is there afterwards tells. A record also keeps the nonces of the writes before it: a writer that is among
them wrote, and one that finds only what it stood on lost. The argument: docs/decisions/0013-qdrant.md.
"""

import json
import time
import uuid
from secrets import token_hex
from typing import Any

from ouroboros.domain.errors import Conflict, StoreError
from ouroboros.stores.metadata.base import Entry, Json, Record, check_key, dump
from ouroboros.stores.qdrant.points import FREED, Payload, Points
from ouroboros.stores.qdrant.server import Server

PAST = 64
"""Writes before the last one that a record remembers."""

KEPT_SECONDS = 86_400
"""A place that was emptied stays for a day, so that whoever is about to write to it finds it taken."""

_NAMES = uuid.UUID("3f0c6c0e-7a5e-4c57-9d0c-6f75726f626f")
_RECORDS, _LOGS = "records/", "logs/"
_CHAIN = ("nonce", "past", "revision", FREED)


class QdrantMetadata:
    """Records and logs in one collection of a Qdrant server, which is made at the first use.

    A record that was deleted and an entry that was erased leave an empty place, so that nothing else is
    mistaken for it; the next deletion after a day removes it, or `scrub`. The end of a log always stays.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        try:
            self._points = Points(server)
        except BaseException:
            self.close()
            raise

    def get(self, collection: str, key: str) -> Record | None:
        id = _id(_RECORDS + collection, key)
        found = self._points.get([id]).get(id)
        return _record(key, found) if found and FREED not in found else None

    def put(self, collection: str, key: str, value: Json, *, expected: int) -> Record:
        check_key(collection)
        check_key(key)
        text = dump(value)
        self._swap(collection, key, expected, {"value": text})
        return Record(key, json.loads(text), expected + 1)

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        if expected < 1:
            raise _moved(collection, key, expected)
        self._swap(collection, key, expected, {FREED: _now()})
        self._points.remove_freed(_RECORDS + collection, _now() - KEPT_SECONDS)

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        """All keys are read, which are small, then the values of as many as are wanted."""
        keys = sorted(k for k in self._points.keys(_RECORDS + collection, prefix) if k[0] > after)
        found: list[Record] = []
        while keys and len(found) < limit:  # again, if some were deleted in between
            chosen, keys = keys[: limit - len(found)], keys[limit - len(found) :]
            values = self._points.get([id for _, id in chosen])
            here = ((key, values.get(id)) for key, id in chosen)
            found += [_record(key, value) for key, value in here if value and FREED not in value]
        return found

    def append(self, log: str, value: Json) -> int:
        """The place after the last is taken by whoever is first; the others go on to the next."""
        check_key(log)
        text, nonce, group = dump(value), token_hex(8), _LOGS + log
        seq = self._points.last(group)
        while True:
            seq += 1
            id = _id(group, str(seq))
            entry = {"group": group, "seq": seq, "nonce": nonce, "value": text}
            self._points.insert(id, entry)
            found = self._points.get([id], ["nonce"]).get(id)
            if found is None:
                raise _unknown(f"Entry {seq} of {log!r} is not there after it was written")
            if found["nonce"] == nonce:
                return seq

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[Entry]:
        found = self._points.log(_LOGS + log, after, limit)
        return [Entry(p["seq"], json.loads(p["value"])) for p in found]

    def erase(self, log: str, first: int, last: int) -> None:
        group = _LOGS + log
        self._points.empty(group, first, last, _now())
        self._points.remove_freed(group, _now() - KEPT_SECONDS, below=self._points.last(group))

    def scrub(self) -> None:
        """Remove the places that have been empty for a day; the ends of logs stay.

        Qdrant's own files keep what was overwritten until its optimizers rewrite them, and its log for
        as long again; nobody can ask it to. This is the law that this store does not hold.
        """
        before = _now() - KEPT_SECONDS
        for group in self._points.groups(_RECORDS, valued=False):
            self._points.remove_freed(group, before)
        for group in self._points.groups(_LOGS, valued=False):
            self._points.remove_freed(group, before, below=self._points.last(group))

    def collections(self) -> list[str]:
        found = self._points.groups(_RECORDS, valued=True)
        return sorted(group.removeprefix(_RECORDS) for group in found)

    def logs(self) -> list[str]:
        return sorted(g.removeprefix(_LOGS) for g in self._points.groups(_LOGS, valued=False))

    def last(self, log: str) -> int:
        return self._points.last(_LOGS + log)

    def close(self) -> None:
        self._server.close()

    def _swap(self, collection: str, key: str, expected: int, content: dict[str, Any]) -> None:
        """Write if the record is at `expected`, else `Conflict`. An empty place is at 0."""
        group = _RECORDS + collection
        id = _id(group, key)
        before = self._points.get([id], _CHAIN).get(id)
        if _revision(before) != expected:
            raise _moved(collection, key, expected)
        nonce, stood_on = token_hex(8), before["nonce"] if before else ""
        past = [stood_on, *(before["past"] if before else ())][:PAST]
        chain = {"revision": expected + 1, "nonce": nonce, "past": past}
        payload = {"group": group, "key": key, **chain, **content}
        if before is None:
            self._points.insert(id, payload)
        else:
            self._points.replace(id, payload, stood_on)
        after = self._points.get([id], _CHAIN).get(id)
        if after is None and before is not None and FREED in before:
            return self._swap(collection, key, expected, content)  # its place was removed just now
        written = (after["nonce"], *after["past"]) if after else ()
        if nonce in written:
            return None
        if stood_on in written:
            raise _moved(collection, key, expected)
        raise _unknown(f"{collection} {key!r} was written over {PAST} times since, or is gone")


def _id(group: str, key: str) -> str:
    """Where a key's point lies; neither name holds a NUL."""
    return str(uuid.uuid5(_NAMES, f"{group}\0{key}"))


def _record(key: str, payload: Payload) -> Record:
    return Record(key, json.loads(payload["value"]), payload["revision"])


def _revision(payload: Payload | None) -> int:
    return 0 if payload is None or FREED in payload else payload["revision"]


def _now() -> int:
    return int(time.time())


def _moved(collection: str, key: str, expected: int) -> Conflict:
    return Conflict(
        f"{collection} {key!r} is not at revision {expected}: somebody else wrote it.",
        hint="Read it again and decide anew.",
    )


def _unknown(why: str) -> StoreError:
    return StoreError(
        f"{why}: whether this write took place cannot be told.", hint="Read it again and decide anew."
    )
