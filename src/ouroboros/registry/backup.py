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
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import AlreadyExists, Conflict, InvalidFile, NotFound
from ouroboros.registry.fencing import ADAPTERS
from ouroboros.registry.leases import LEASES
from ouroboros.registry.paging import read_entries, read_records
from ouroboros.registry.version_rows import VERSIONS
from ouroboros.registry.weight_store import CONDEMNED, SWEEPS
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.faults import store_error
from ouroboros.stores.metadata.base import MetadataStore

FORMAT = 1
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
        stored = _copy_blobs(blobs, zipped)
        _require_complete(rows, stored)
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
    """Fill an empty store from a backup: blobs, logs, records, and the heads last."""
    if metadata.collections() or metadata.logs() or next(iter(blobs.list()), None) is not None:
        raise AlreadyExists(
            "The store to restore into is not empty.", hint="Restore into a new --store."
        )
    with _open_backup(file) as zipped:
        if (damaged := zipped.testzip()) is not None:
            raise _invalid_backup(file, f"{damaged} is damaged")
        contents = _read_manifest(zipped)
        rows = _read_lines(zipped, _RECORDS, contents.records_digest)
        logs = _read_lines(zipped, _LOGS, contents.logs_digest)
        names = sorted(name for name in zipped.namelist() if name.startswith(_BLOBS))
        if (len(names), len(rows), len(logs)) != (contents.blobs, contents.records, contents.logs):
            raise _invalid_backup(file, "something is missing")
        for name in names:
            blobs.put(name.removeprefix(_BLOBS), zipped.read(name))
    for name, last, entries in logs:
        restore_log(metadata, name, last, dict(entries))
    for collection, key, value in sorted(rows, key=lambda row: row[0] == ADAPTERS):
        metadata.put(collection, key, value, expected=0)
    return contents


def read_all_records(metadata: MetadataStore) -> list[tuple[str, str, Any]]:
    """Read every record but the transient ones, as collection, key and value; adapters come first."""
    collections = sorted(set(metadata.collections()) - {SWEEPS, CONDEMNED, LEASES})
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


def _copy_blobs(blobs: BlobStore, zipped: zipfile.ZipFile) -> set[str]:
    stored = set()
    for key in blobs.list():
        try:
            zipped.writestr(_BLOBS + key, blobs.get(key))
        except NotFound:
            continue  # removed since it was listed; `_require_complete` checks whether it matters
        stored.add(key)
    return stored


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
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError) as error:
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
