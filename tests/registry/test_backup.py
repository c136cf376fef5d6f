"""One file holds the whole store, and fills another, of any kind."""

import hashlib
import json
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import AlreadyExists, Conflict, InvalidFile, StoreError
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.backup import restore_backup, write_backup
from ouroboros.registry.fsck import check_store, collect_garbage
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata

TICKETS, GONE = AdapterId("tickets"), AdapterId("gone")
MakeFiles = Callable[[object], AdapterFiles]


@pytest.fixture
def filled(registry: Registry, base: BaseModel, make_files: MakeFiles) -> Registry:
    for name in (TICKETS, GONE):
        registry.create_adapter(name, AdapterConfig(), base, make_files(name))
        for n in range(4):
            registry.journal.append_examples(name, [TrainingExample(f"naïve {n}", "out")])
    registry.commit_version(TICKETS, make_files(2), parent=1, cause="trained", events=4)
    registry.rollback(VersionRef(TICKETS, 1))
    registry.journal.erase(TICKETS, 2, 3)
    registry.journal.erase(GONE, 3, 4)
    registry.delete_adapter(GONE)
    return registry


def restore_into_memory(file: Path) -> Registry:
    metadata, blobs = MemoryMetadata(), MemoryBlobs()
    restore_backup(file, metadata, blobs)
    return Registry(metadata, blobs)


def test_records_and_blobs_of_others_are_backed_up_and_never_collected(
    filled: Registry, tmp_path: Path
) -> None:
    """A server keeps its files and jobs in the same store."""
    filled._metadata.put("service-files", "file-1", {"name": "rows.jsonl"}, expected=0)
    filled._blobs.put("service/file-1", b"rows")
    collect_garbage(filled, timedelta(0))
    write_backup(filled._metadata, filled._blobs, tmp_path / "store.backup")
    copy = restore_into_memory(tmp_path / "store.backup")
    record = copy._metadata.get("service-files", "file-1")
    assert record is not None and record.value == {"name": "rows.jsonl"}
    assert copy._blobs.get("service/file-1") == b"rows"


def test_a_restored_store_holds_the_same(
    filled: Registry, tmp_path: Path, make_files: MakeFiles, base: BaseModel
) -> None:
    contents = write_backup(filled._metadata, filled._blobs, tmp_path / "store.backup")
    copy = restore_into_memory(tmp_path / "store.backup")
    assert copy.list_adapters() == filled.list_adapters()
    assert copy.list_versions(TICKETS) == filled.list_versions(TICKETS)
    assert copy.list_head_moves(TICKETS) == filled.list_head_moves(TICKETS)
    assert copy.journal.read(TICKETS) == filled.journal.read(TICKETS)
    assert [j.seq for j in copy.journal.read(TICKETS)] == [1, 4]
    assert check_store(copy).damages == ()
    assert contents.blobs == 4
    adapter = copy.create_adapter(GONE, AdapterConfig(), base, make_files(GONE))
    assert (adapter.head, adapter.born) == (2, 4)


def test_a_backup_never_overwrites_and_a_restore_never_mixes(filled: Registry, tmp_path: Path) -> None:
    file = tmp_path / "store.backup"
    write_backup(filled._metadata, filled._blobs, file)
    before = file.read_bytes()
    with pytest.raises(AlreadyExists):
        write_backup(filled._metadata, filled._blobs, file)
    with pytest.raises(AlreadyExists, match="not empty"):
        restore_backup(file, filled._metadata, filled._blobs)
    assert file.read_bytes() == before


def test_a_backup_that_fails_leaves_no_file(
    filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "there"
    with pytest.raises(StoreError):
        write_backup(filled._metadata, filled._blobs, folder / "store.backup")
    folder.mkdir()
    monkeypatch.setattr(filled._blobs, "list", lambda: iter(()))
    with pytest.raises(Conflict, match="deleted while"):
        write_backup(filled._metadata, filled._blobs, folder / "store.backup")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("part", range(10))
def test_a_backup_cut_short_is_refused_and_the_store_left_empty(
    filled: Registry, tmp_path: Path, part: int
) -> None:
    file = tmp_path / "store.backup"
    write_backup(filled._metadata, filled._blobs, file)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * part // 10])
    metadata, blobs = MemoryMetadata(), MemoryBlobs()
    with pytest.raises(InvalidFile):
        restore_backup(file, metadata, blobs)
    assert (metadata.collections(), metadata.logs(), list(blobs.list())) == ([], [], [])


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("notes.txt", "hello")
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as newer:
        newer.writestr("ouroboros.json", '{"format": 2}')
    (tmp_path / "text").write_text("hello")
    for name, words in (
        ("other.zip", "not a complete backup"),
        ("newer.zip", "format 2"),
        ("text", "not a complete backup"),
    ):
        with pytest.raises(InvalidFile, match=words):
            restore_into_memory(tmp_path / name)
    with pytest.raises(InvalidFile, match="cannot be read"):
        restore_into_memory(tmp_path / "missing")


def test_a_changed_byte_is_found(filled: Registry, tmp_path: Path) -> None:
    file = tmp_path / "store.backup"
    write_backup(filled._metadata, filled._blobs, file)
    data = bytearray(file.read_bytes())
    data[data.index(b"'tickets'") + 3] ^= 1
    file.write_bytes(data)
    metadata, blobs = MemoryMetadata(), MemoryBlobs()
    with pytest.raises(InvalidFile, match="is damaged"):
        restore_backup(file, metadata, blobs)
    assert list(blobs.list()) == []


def test_a_store_with_damaged_weights_is_not_backed_up(filled: Registry, tmp_path: Path) -> None:
    version = filled.list_versions(TICKETS)[0]
    key = f"adapters/{version.digest}/adapter_model.safetensors"
    filled._blobs.delete(key)
    filled._blobs.put(key, b"other")
    with pytest.raises(StoreError, match="damaged"):
        write_backup(filled._metadata, filled._blobs, tmp_path / "store.backup")
    assert not list(tmp_path.glob("*.backup*"))


def rewrite(file: Path, **parts: bytes) -> None:
    """Replace parts of a backup, with a manifest that fits them."""
    with zipfile.ZipFile(file) as zipped:
        contents = {name: zipped.read(name) for name in zipped.namelist()}
    manifest = json.loads(contents["ouroboros.json"])
    for name, data in parts.items():
        contents[f"{name}.jsonl"] = data
        manifest[f"{name}_digest"] = hashlib.sha256(data).hexdigest()
        manifest[name] = data.count(b"\n")
    contents["ouroboros.json"] = json.dumps(manifest).encode()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, data in contents.items():
            stored = zipfile.ZIP_STORED if name.startswith("blobs/") else None
            zipped.writestr(name, data, compress_type=stored)


MALFORMED = {
    "records": [
        b'["versions", "tickets@000000001"]\n',
        b'["versions", "tickets@000000001", 7]\n',
        b'["versions", "", {}]\n',
        b'["a", "k", {}]\n["a", "k", {}]\n',
        b"[" * 100_000 + b"\n",
        b'["a", "k", {"n": ' + b"9" * 5000 + b"}]\n",
    ],
    "logs": [
        b'["journal/tickets", 1000000000000000000, []]\n',
        b'["journal/tickets", "many", []]\n',
        b'["journal/tickets", 1, [[2, {}]]]\n',
        b'["journal/tickets", 2, [[1, {}], [1, {}]]]\n',
        b'["journal/tickets", 1, [[1, "text"]]]\n',
        b'["journal/tickets"]\n',
    ],
}


@pytest.mark.parametrize(
    ("part", "text"), [(part, text) for part, texts in MALFORMED.items() for text in texts]
)
def test_a_malformed_backup_is_refused_and_leaves_nothing(
    filled: Registry, tmp_path: Path, part: str, text: bytes
) -> None:
    file = tmp_path / "store.backup"
    write_backup(filled._metadata, filled._blobs, file)
    rewrite(file, **{part: text})
    metadata, blobs = MemoryMetadata(), MemoryBlobs()
    with pytest.raises((InvalidFile, StoreError)):
        restore_backup(file, metadata, blobs)
    assert (metadata.collections(), metadata.logs(), list(blobs.list())) == ([], [], [])


@pytest.mark.parametrize("name", ["records.jsonl", "blobs/checkpoints/large"])
def test_a_file_that_would_fill_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    file = tmp_path / "bomb.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr(name, b" " * 50_000_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("it was read"))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_: pytest.fail("it was read"))
    with pytest.raises(InvalidFile, match=r"compressed|50,000,000 bytes"):
        restore_into_memory(file)


def test_a_restore_that_was_killed_is_seen_as_incomplete(
    filled: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "store.backup"
    write_backup(filled._metadata, filled._blobs, file)
    metadata, blobs = MemoryMetadata(), MemoryBlobs()
    with monkeypatch.context() as killed:
        killed.setattr(blobs, "put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            restore_backup(file, metadata, blobs)
    with pytest.raises(StoreError, match="interrupted"):
        check_store(Registry(metadata, blobs))
    with pytest.raises(AlreadyExists, match="not empty"):
        restore_backup(file, metadata, blobs)
    whole = MemoryMetadata(), MemoryBlobs()
    restore_backup(file, *whole)
    assert check_store(Registry(*whole)).damages == ()
