"""Backing up a whole store into one file, and restoring it.

The file is a zip: `records.jsonl` and `logs.jsonl` hold the metadata, `blobs/` the blobs under their
keys, `ouroboros.json` a manifest. Backups go through the primitives of the stores, so a store of any
kind can be restored as any other.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import AlreadyExists, Conflict, InvalidFile, NotFound, StoreError
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.registry.fencing import ADAPTERS
from ouroboros.registry.leases import LEASES
from ouroboros.registry.paging import read_entries, read_records
from ouroboros.registry.version_rows import VERSIONS
from ouroboros.registry.weight_store import CONDEMNED, SWEEPS
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.faults import store_error
from ouroboros.stores.metadata.base import MetadataStore, check_key

FORMAT = 1
MAX_BLOB = 2**30
"""Bytes of one blob, at most: a checkpoint of the largest adapter is far smaller."""

MAX_RATIO = 200
"""How many times larger than its compressed text a backup's metadata may be."""

MAX_ERASED = 1_000_000
"""Erased entries of one log, at most: each is written and erased again."""

RESTORING = "restoring"
"""The record of a restore that is under way."""

_MANIFEST, _RECORDS, _LOGS, _BLOBS = "ouroboros.json", "records.jsonl", "logs.jsonl", "blobs/"


@dataclass(frozen=True, slots=True)
class BackupContents:
    """How much a backup holds; the digests are SHA-256 of its two metadata files."""

    blobs: int
    records: int
    logs: int
    records_digest: str
    logs_digest: str
    format: int = FORMAT


def write_backup(metadata: MetadataStore, blobs: BlobStore, file: Path) -> BackupContents:
    """Write the whole store into a new file, atomically.

    The store may be in use meanwhile. Adapters are read first and weights last, so that the backup is
    consistent. Raises `Conflict` if something was deleted in between.
    """
    if file.exists():
        raise AlreadyExists(f"{file} exists already.", hint="Choose a new name for the backup.")
    with _write_atomically(file) as partial, zipfile.ZipFile(partial, "w") as zipped:
        rows = read_all_records(metadata)
        logs = [read_log(metadata, name) for name in metadata.logs()]
        stored, damaged = _copy_blobs(blobs, zipped)
        _require_complete(rows, stored)
        _require_intact(rows, damaged)
        contents = BackupContents(
            blobs=len(stored),
            records=len(rows),
            logs=len(logs),
            records_digest=_write_lines(zipped, _RECORDS, rows),
            logs_digest=_write_lines(zipped, _LOGS, logs),
        )
        zipped.writestr(_MANIFEST, json.dumps(asdict(contents)))
    return contents


def restore_backup(file: Path, metadata: MetadataStore, blobs: BlobStore) -> BackupContents:
    """Fill an empty store from a backup: blobs, logs, records, and the heads last.

    Everything is read and checked before anything is written. If the program is killed meanwhile, the
    store is marked as incomplete, and `fsck` says so.
    """
    if metadata.collections() or metadata.logs() or next(iter(blobs.list()), None) is not None:
        raise AlreadyExists(
            "The store to restore into is not empty.", hint="Restore into a new --store."
        )
    with _open_backup(file) as zipped:
        # 1. Check sizes before contents: a few bytes can unpack to a full disk.
        _check_sizes(file, zipped)
        if (damaged := zipped.testzip()) is not None:
            raise _invalid_backup(file, f"{damaged} is damaged")
        contents = _read_manifest(zipped)
        rows = _read_lines(zipped, _RECORDS, contents.records_digest)
        logs = _read_lines(zipped, _LOGS, contents.logs_digest)
        names = sorted(name for name in zipped.namelist() if name.startswith(_BLOBS))
        if (len(names), len(rows), len(logs)) != (contents.blobs, contents.records, contents.logs):
            raise _invalid_backup(file, "something is missing")
        _check_rows(file, rows, logs)
        # 2. Mark the store as incomplete, then store blobs: records may only name what is there.
        mark = {"since": datetime.now(UTC).isoformat()}
        metadata.put(RESTORING, RESTORING, mark, expected=0)
        for name in names:
            blobs.put(name.removeprefix(_BLOBS), zipped.read(name))
    # 3. Adapters come last, since their heads make everything else visible.
    for name, last, entries in logs:
        restore_log(metadata, name, last, dict(entries))
    for collection, key, value in sorted(rows, key=lambda row: row[0] == ADAPTERS):
        metadata.put(collection, key, value, expected=0)
    metadata.delete(RESTORING, RESTORING, expected=1)
    return contents


def require_restored(metadata: MetadataStore) -> None:
    """Raise `StoreError` if a restore into this store was not completed."""
    if metadata.get(RESTORING, RESTORING) is not None:
        raise StoreError(
            "A restore into this store was interrupted: something is missing.",
            hint="Delete the store, and restore the backup again.",
        )


def read_all_records(metadata: MetadataStore) -> list[tuple[str, str, Any]]:
    """Read every record but the transient ones, as collection, key and value; adapters come first."""
    collections = sorted(set(metadata.collections()) - {SWEEPS, CONDEMNED, LEASES, RESTORING})
    return [(c, r.key, r.value) for c in collections for r in read_records(metadata, c)]


def read_log(metadata: MetadataStore, name: str) -> tuple[str, int, list[tuple[int, Any]]]:
    """Return a log's name, the last number it has assigned, and its entries with their numbers."""
    last = metadata.last(name)
    entries = [(e.seq, e.value) for e in read_entries(metadata, name) if e.seq <= last]
    return name, last, entries


def restore_log(metadata: MetadataStore, name: str, last: int, entries: dict[int, Any]) -> None:
    """Append entries under their old numbers; erased numbers are filled and erased again."""
    for seq in range(metadata.last(name) + 1, last + 1):
        metadata.append(name, entries.get(seq, {}))
        if seq not in entries:
            metadata.erase(name, seq, seq)


def _check_sizes(file: Path, zipped: zipfile.ZipFile) -> None:
    """Refuse a file that would fill the memory: what a backup holds is not compressed without bound."""
    for entry in zipped.infolist():
        is_blob = entry.filename.startswith(_BLOBS)
        if is_blob and entry.file_size != entry.compress_size:
            raise _invalid_backup(file, f"{entry.filename} is compressed, as no backup is")
        limit = MAX_BLOB if is_blob else max(MAX_RATIO * entry.compress_size, 2**20)
        if entry.file_size > limit:
            raise _invalid_backup(file, f"{entry.filename} would have {entry.file_size:,} bytes")


def _check_rows(file: Path, rows: list[Any], logs: list[Any]) -> None:
    """Check the form of all records and logs, so that a malformed file leaves nothing half-filled."""
    for collection, key, value in rows:
        check_key(collection)
        check_key(key)
        if not isinstance(value, dict):
            raise _invalid_backup(file, f"the record {key!r} is no object")
    places = {(collection, key) for collection, key, _ in rows}
    if len(places) != len(rows):
        raise _invalid_backup(file, "two records have one key")
    for name, last, entries in logs:
        check_key(name)
        numbers = [seq for seq, _ in entries]
        if not all(type(seq) is int and 0 < seq <= last for seq in numbers):
            raise _invalid_backup(file, f"the numbers of the log {name!r} are wrong")
        if not all(isinstance(value, dict) for _, value in entries) or len({*numbers}) != len(numbers):
            raise _invalid_backup(file, f"the entries of the log {name!r} are wrong")
        if type(last) is not int or last - len(numbers) > MAX_ERASED:
            raise _invalid_backup(file, f"the log {name!r} claims {last} entries")


def _copy_blobs(blobs: BlobStore, zipped: zipfile.ZipFile) -> tuple[set[str], set[str]]:
    """Copy all blobs; returns their keys, and the digests of versions whose files are damaged."""
    stored, damaged = set(), set()
    configs: dict[str, bytes] = {}
    for key in blobs.list():
        try:
            data = blobs.get(key)
        except NotFound:
            continue  # removed since it was listed; `_require_complete` checks whether it matters
        zipped.writestr(_BLOBS + key, data)
        stored.add(key)
        # The config of a version is listed before its weights; both are its digest.
        folder, _, name = key.rpartition("/")
        if name == CONFIG_FILE:
            configs[folder] = data
        elif name == WEIGHTS_FILE:
            digest = folder.rpartition("/")[2].partition(".")[0]
            if AdapterFiles(configs.pop(folder, b""), data).digest != digest:
                damaged.add(digest)
    return stored, damaged


def _require_intact(rows: Iterable[tuple[str, str, Any]], damaged: set[str]) -> None:
    """Raise `StoreError` if weights of a version are damaged: a backup would look complete."""
    for collection, key, value in rows:
        if collection == VERSIONS and value.get("digest") in damaged:
            raise StoreError(
                f"The stored weights of {key} are damaged: a backup could not replace them.",
                hint="See what else is damaged: ouroboros fsck",
            )


def _require_complete(rows: Iterable[tuple[str, str, Any]], stored: set[str]) -> None:
    digests = {key: value["digest"] for collection, key, value in rows if collection == VERSIONS}
    heads = [
        f"{key}@{value['head']:09d}" for c, key, value in rows if c == ADAPTERS and value.get("head")
    ]
    folders = {key.split("/")[1].partition(".")[0] for key in stored if key.startswith("adapters/")}
    if not digests.keys() >= set(heads) or not folders >= set(digests.values()):
        raise Conflict("Something was deleted while the backup was made.", hint="Try again.")


def _write_lines(zipped: zipfile.ZipFile, name: str, lines: Iterable[Any]) -> str:
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
    zipped.writestr(name, text, compress_type=zipfile.ZIP_DEFLATED)
    return hashlib.sha256(text).hexdigest()


def _read_lines(zipped: zipfile.ZipFile, name: str, digest: str) -> list[Any]:
    text = zipped.read(name)
    if hashlib.sha256(text).hexdigest() != digest:
        raise _invalid_backup(Path(str(zipped.filename)), f"{name} is damaged")
    return [json.loads(line) for line in text.decode().split("\n")[:-1]]


def _read_manifest(zipped: zipfile.ZipFile) -> BackupContents:
    manifest = json.loads(zipped.read(_MANIFEST))
    if manifest.get("format") != FORMAT:
        raise InvalidFile(
            f"{zipped.filename} has backup format {manifest.get('format')}, not {FORMAT}.",
            hint="Use the version of ouroboros that wrote it, or a newer one.",
        )
    return BackupContents(**manifest)


@contextmanager
def _open_backup(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as zipped:
            yield zipped
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, RecursionError, EOFError) as error:
        raise _invalid_backup(file, str(error)) from error
    except OSError as error:
        raise InvalidFile(
            f"{file} cannot be read: {error.strerror}.", hint="Name a file that backup wrote."
        ) from error


@contextmanager
def _write_atomically(file: Path) -> Iterator[Path]:
    """Yield a temporary name to write to; it is renamed to `file` once it is complete and synced."""
    partial = file.with_name(file.name + ".partial")
    try:
        partial.touch(mode=0o600)  # it has users' texts
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    except OSError as error:
        raise store_error(f"write {file.name}", file.parent, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _invalid_backup(file: Path, how: str) -> InvalidFile:
    return InvalidFile(f"{file} is not a complete backup: {how}.", hint="Use another copy of it.")
