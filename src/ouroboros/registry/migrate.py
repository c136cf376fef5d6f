"""Copying a whole store into another of any kind, so that it can be broken off and go on.

Nothing remembers how far it got: what the target holds already must equal the source, is left as it is,
and the rest is written. The order is that of every write: weights, logs, records, and pointers last.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from ouroboros.domain.errors import AlreadyExists, Conflict, StoreError
from ouroboros.registry.backup import read_log, read_rows, refill
from ouroboros.registry.registry import ADAPTERS
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

Rows = dict[tuple[str, str], Any]
Logs = dict[str, tuple[int, dict[int, Any]]]


@dataclass(frozen=True, slots=True)
class Stores:
    """One store: its metadata and its blobs."""

    metadata: MetadataStore
    blobs: BlobStore

    def close(self) -> None:
        self.metadata.close()
        self.blobs.close()


@dataclass(frozen=True, slots=True)
class Copied:
    """What the target holds now, each piece compared with the source."""

    blobs: int
    records: int
    logs: int


def migrate(source: Stores, target: Stores) -> Copied:
    """Copy everything; nobody should write to either store meanwhile.

    Raises `AlreadyExists`, with nothing changed, if the target holds what the source does not, and
    `Conflict` if the two differ afterwards, which is to say that somebody wrote.
    """
    rows, logs = _rows(source.metadata), _logs(source.metadata)
    _require_part_of(rows, logs, target.metadata)
    keys = list(source.blobs.list())
    for key in keys:
        _copy_blob(source.blobs, target.blobs, key)
    for name, (last, kept) in logs.items():
        _copy_log(target.metadata, name, last, kept)
    for (collection, key), value in sorted(rows.items(), key=lambda row: row[0][0] == ADAPTERS):
        if target.metadata.get(collection, key) is None:
            target.metadata.put(collection, key, value, expected=0)
    both = (source.metadata, target.metadata)
    if _rows(both[0]) != _rows(both[1]) or _logs(both[0]) != _logs(both[1]):
        raise Conflict(
            "The two stores differ after the copy: somebody wrote to one of them.",
            hint="Stop what uses them, and migrate again into an empty store.",
        )
    return Copied(blobs=len(keys), records=len(rows), logs=len(logs))


def _copy_blob(source: BlobStore, target: BlobStore, key: str) -> None:
    """Put unless it is there, and read back what is there now."""
    data = source.get(key)
    target.put(key, data)
    if hashlib.sha256(target.get(key)).digest() != hashlib.sha256(data).digest():
        raise StoreError(
            f"The blob {key} in the target is another one.",
            hint="The target is damaged or another store's: use an empty one.",
        )


def _copy_log(target: MetadataStore, name: str, last: int, kept: dict[int, Any]) -> None:
    refill(target, name, last, kept)
    for seq in _entries(target, name).keys() - kept.keys():
        target.erase(name, seq, seq)  # a filler that an interrupted copy left


def _require_part_of(rows: Rows, logs: Logs, target: MetadataStore) -> None:
    """Refuse a target that holds anything but a part of the source."""
    strange = [key for key, value in _rows(target).items() if key not in rows or rows[key] != value]
    for name, (last, found) in _logs(target).items():
        source_last, kept = logs.get(name, (0, {}))
        fillers_apart = {seq: value for seq, value in found.items() if seq in kept or value}
        if last > source_last or any(kept.get(seq) != v for seq, v in fillers_apart.items()):
            strange.append(("logs", name))
    if strange:
        raise AlreadyExists(
            "The target holds something that the source does not.",
            hint="Migrate into an empty store, or go on with one that was left half copied.",
        )


def _rows(metadata: MetadataStore) -> Rows:
    return {(collection, key): value for collection, key, value in read_rows(metadata)}


def _logs(metadata: MetadataStore) -> Logs:
    read = (read_log(metadata, name) for name in metadata.logs())
    return {name: (last, dict(kept)) for name, last, kept in read}


def _entries(metadata: MetadataStore, name: str) -> dict[int, Any]:
    return dict(read_log(metadata, name)[2])
