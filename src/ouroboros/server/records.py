"""What the server itself keeps: files, jobs, completions and tickets, in the engine's own stores.

Every record names its `tenant`. Ids grow with time, so that a collection is in the order of creation.
Methods block; handlers call them through `in_thread`.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from ouroboros.domain.errors import Conflict, NotFound
from ouroboros.registry.paging import read_entries, read_records
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

Value = Mapping[str, Any]


def new_id(prefix: str) -> str:
    """An id nobody can guess, that sorts after those of earlier milliseconds."""
    return f"{prefix}-{time_key(time.time())}{secrets.token_hex(10)}"


def time_key(seconds: float) -> str:
    """Milliseconds since 1970, so that texts sort as times do."""
    return f"{int(seconds * 1000):012x}"


class Collection:
    """Records of one kind, by id."""

    def __init__(self, metadata: MetadataStore, name: str, noun: str) -> None:
        self._metadata = metadata
        self._name = name
        self._noun = noun

    def create(self, key: str, value: Value) -> Value:
        """Write a new record. Raises `Conflict` if there is one already."""
        self._metadata.put(self._name, key, value, expected=0)
        return value

    def find(self, key: str) -> Value | None:
        """Returns the record under `key`; None if there is none, or no record can have such a key."""
        record = self._metadata.get(self._name, key) if 0 < len(key) <= 512 and "\0" not in key else None
        return record.value if record else None

    def get(self, key: str, tenant: str) -> Value:
        """A record of this tenant. Raises `NotFound`, also for one of another tenant."""
        value = self.find(key)
        if value is None or value["tenant"] != tenant:
            raise NotFound(f"There is no {self._noun} {key[:80]!r}.", hint="Check its id.")
        return value

    def change(self, key: str, change: Callable[[Value], Value]) -> Value:
        """Write what `change` makes of a record, whoever writes at the same time."""
        while True:
            record = self._metadata.get(self._name, key)
            if record is None:
                raise NotFound(f"There is no {self._noun} {key[:80]!r}.", hint="Check its id.")
            value = change(record.value)
            with suppress(Conflict):
                self._metadata.put(self._name, key, value, expected=record.revision)
                return value

    def delete(self, key: str) -> None:
        """Remove a record if it is there."""
        while (record := self._metadata.get(self._name, key)) is not None:
            with suppress(Conflict):
                return self._metadata.delete(self._name, key, expected=record.revision)
        return None

    def all(self, tenant: str | None = None) -> list[Value]:
        """Every record, of one tenant or all, the oldest first."""
        records = read_records(self._metadata, self._name)
        return [r.value for r in records if tenant is None or r.value["tenant"] == tenant]

    def keys_before(self, key: str, limit: int = 1000) -> list[str]:
        """Ids that sort before `key`, at most `limit` of them."""
        records = self._metadata.scan(self._name, limit=limit)
        return [record.key for record in records if record.key < key]


class ServiceRecords:
    """The server's collections, the events of its jobs, and the content of its files."""

    def __init__(self, metadata: MetadataStore, blobs: BlobStore) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self.files = Collection(metadata, "service-files", "file")
        self.jobs = Collection(metadata, "service-jobs", "fine-tuning job")
        self.completions = Collection(metadata, "service-completions", "completion")
        self.stored = Collection(metadata, "service-stored", "stored completion")
        self.tickets = Collection(metadata, "service-tickets", "feedback")
        self.requests = Collection(metadata, "service-requests", "request")
        self.keys = Collection(metadata, "service-keys", "key")

    def check_writable(self) -> None:
        """Raise `StoreError` unless the store takes writes now."""
        record = self._metadata.get("service-health", "writable")
        revision = record.revision if record else 0
        with suppress(Conflict):  # another process has just written it: that is proof enough
            self._metadata.put("service-health", "writable", {"at": time.time()}, expected=revision)

    def add_event(self, job: str, level: str, message: str, kind: str, data: Value) -> None:
        """Append to the events of a job."""
        value = {
            "created_at": int(time.time()),
            "level": level,
            "message": message,
            "type": kind,
            "data": dict(data),
        }
        self._metadata.append(f"service-events/{job}", value)

    def events(self, job: str) -> list[dict[str, Any]]:
        """The events of a job, the oldest first."""
        return [
            {"id": f"ftevent-{job.removeprefix('ftjob-')}-{entry.seq}", **entry.value}
            for entry in read_entries(self._metadata, f"service-events/{job}")
        ]

    def audit(self, tenant: str, actor: str, action: str, target: str) -> None:
        """Append to the audit log: who changed what, and when."""
        value = {
            "at": time.time(),
            "tenant": tenant,
            "actor": actor,
            "action": action,
            "target": target,
        }
        self._metadata.append("service-audit", value)

    def audit_log(self) -> list[Value]:
        """Every entry of the audit log, the oldest first."""
        return [entry.value for entry in read_entries(self._metadata, "service-audit")]

    def put_content(self, file: str, data: bytes) -> None:
        """Store the content of a file under its id."""
        self._blobs.put(f"service/{file}", data)

    def content(self, file: str) -> bytes:
        """The content of a file. Raises `NotFound` if it was deleted."""
        return self._blobs.get(f"service/{file}")

    def delete_content(self, file: str) -> None:
        """Remove the content of a file if it is there."""
        self._blobs.delete(f"service/{file}")


def page(values: list[Any], after: str | None, limit: int, key: str = "id") -> tuple[list[Any], bool]:
    """The `limit` values behind the one with the id `after`, and whether more follow."""
    if after is not None:
        ids = [value[key] for value in values]
        if after not in ids:
            raise NotFound(
                f"There is nothing with the id {after[:80]!r}.", hint="Start from the first page."
            )
        values = values[ids.index(after) + 1 :]
    return values[:limit], len(values) > limit


def list_body(values: list[Any], has_more: bool) -> dict[str, Any]:
    """A page as OpenAI's clients read it."""
    return {
        "object": "list",
        "data": values,
        "has_more": has_more,
        "first_id": values[0]["id"] if values else None,
        "last_id": values[-1]["id"] if values else None,
    }
