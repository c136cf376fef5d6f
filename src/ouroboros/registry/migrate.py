"""Copying a whole store into another of any kind; an interrupted copy can be resumed.

There is no record of progress: what the target holds must equal the source and stays, and the rest is
written. The order is that of every write: weights, logs, records, and the heads last.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from ouroboros.domain.errors import AlreadyExists, Conflict, StoreError
from ouroboros.registry.backup import read_all_records, read_log, restore_log
from ouroboros.registry.fencing import ADAPTERS
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

RecordsByKey = dict[tuple[str, str], Any]
LogsByName = dict[str, tuple[int, dict[int, Any]]]


@dataclass(frozen=True, slots=True)
class Store:
    """One store: its metadata and its blobs."""

    metadata: MetadataStore
    blobs: BlobStore

    def close(self) -> None:
        self.metadata.close()
        self.blobs.close()


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """How much the target holds, all of it compared with the source."""

    blobs: int
    records: int
    logs: int


def migrate_store(source: Store, target: Store) -> MigrationReport:
    """Copy everything; nobody should write to either store meanwhile.

    Raises `AlreadyExists`, before any change, if the target holds something that the source does not,
    and `Conflict` if the two differ afterwards because somebody wrote to one of them.
    """
    rows, logs = _read_records(source.metadata), _read_logs(source.metadata)
    _require_part_of(rows, logs, target.metadata)
    keys = list(source.blobs.list())
    for key in keys:
        _copy_blob(source.blobs, target.blobs, key)
    for name, (last, entries) in logs.items():
        _copy_log(target.metadata, name, last, entries)
    for (collection, key), value in sorted(rows.items(), key=lambda row: row[0][0] == ADAPTERS):
        if target.metadata.get(collection, key) is None:
            target.metadata.put(collection, key, value, expected=0)
    both = (source.metadata, target.metadata)
    if _read_records(both[0]) != _read_records(both[1]) or _read_logs(both[0]) != _read_logs(both[1]):
        raise Conflict(
            "The two stores differ after the copy: somebody wrote to one of them.",
            hint="Stop what uses them, and migrate again into an empty store.",
        )
    return MigrationReport(blobs=len(keys), records=len(rows), logs=len(logs))


def _copy_blob(source: BlobStore, target: BlobStore, key: str) -> None:
    """Write a blob unless the target has it, and compare what the target has with the source."""
    data = source.get(key)
    target.put(key, data)
    if hashlib.sha256(target.get(key)).digest() != hashlib.sha256(data).digest():
        raise StoreError(
            f"The blob {key} in the target is another one.",
            hint="The target is damaged or another store's: use an empty one.",
        )


def _copy_log(target: MetadataStore, name: str, last: int, entries: dict[int, Any]) -> None:
    restore_log(target, name, last, entries)
    for seq in _read_entries(target, name).keys() - entries.keys():
        target.erase(name, seq, seq)  # a placeholder of an interrupted copy


def _require_part_of(rows: RecordsByKey, logs: LogsByName, target: MetadataStore) -> None:
    """Refuse a target that holds anything but a part of the source."""
    strange = [
        key for key, value in _read_records(target).items() if key not in rows or rows[key] != value
    ]
    for name, (last, target_entries) in _read_logs(target).items():
        source_last, entries = logs.get(name, (0, {}))
        fillers_apart = {seq: value for seq, value in target_entries.items() if seq in entries or value}
        if last > source_last or any(entries.get(seq) != v for seq, v in fillers_apart.items()):
            strange.append(("logs", name))
    if strange:
        raise AlreadyExists(
            "The target holds something that the source does not.",
            hint="Migrate into an empty store, or resume into a partial copy of this one.",
        )


def _read_records(metadata: MetadataStore) -> RecordsByKey:
    return {(collection, key): value for collection, key, value in read_all_records(metadata)}


def _read_logs(metadata: MetadataStore) -> LogsByName:
    read = (read_log(metadata, name) for name in metadata.logs())
    return {name: (last, dict(entries)) for name, last, entries in read}


def _read_entries(metadata: MetadataStore, name: str) -> dict[int, Any]:
    return dict(read_log(metadata, name)[2])
