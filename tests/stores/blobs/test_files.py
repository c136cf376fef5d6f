"""Files pass the blob store suite; links are not followed, and leftovers of killed writers are
harmless."""

import fcntl
import os
import time
from pathlib import Path

import pytest

from ouroboros.domain.errors import StoreError
from ouroboros.stores.blobs.files import FileBlobs
from ouroboros.testing.blobs import SharedBlobStoreSuite


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "new" / "blobs"


@pytest.fixture
def url(folder: Path) -> str:
    return f"file://{folder}"


class TestFileBlobs(SharedBlobStoreSuite):
    pass


def test_a_blob_is_a_plain_file_under_its_key(folder: Path) -> None:
    FileBlobs(folder).put("adapters/abc/adapter_config.json", b"{}")
    assert (folder / "adapters" / "abc" / "adapter_config.json").read_bytes() == b"{}"


def test_drafts_are_removed_and_not_listed(folder: Path) -> None:
    store = FileBlobs(folder)
    store.put("a", b"1")
    store.put("a", b"2")
    (folder / ".tmp" / "left-by-a-killed-writer").write_bytes(b"half")
    assert [p.name for p in (folder / ".tmp").iterdir()] == ["left-by-a-killed-writer"]
    assert list(store.list()) == ["a"]


def test_old_drafts_are_removed_and_recent_ones_kept(folder: Path) -> None:
    FileBlobs(folder)
    old, young = folder / ".tmp" / "old", folder / ".tmp" / "young"
    for file in (old, young):
        file.write_bytes(b"half")
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(old, (long_ago, long_ago))
    FileBlobs(folder)
    assert (old.exists(), young.exists()) == (False, True)


def test_deleting_the_last_blob_removes_its_folder(folder: Path) -> None:
    store = FileBlobs(folder)
    store.put("adapters/abc/one", b"")
    store.delete("adapters/abc/one")
    assert not (folder / "adapters" / "abc").exists()


@pytest.mark.parametrize("link", ["inside", "inside/file"])
def test_symbolic_links_are_not_followed(folder: Path, tmp_path: Path, link: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"private")
    store = FileBlobs(folder)
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(outside if link == "inside" else outside / "file")
    with pytest.raises(StoreError):
        store.get("inside/file")
    with pytest.raises(StoreError):
        store.put("inside/file", b"overwritten")
    if link == "inside":
        with pytest.raises(StoreError):
            store.delete("inside/file")
    assert list(store.list()) == []
    assert (outside / "file").read_bytes() == b"private"


def test_the_drafts_of_killed_writers_are_removed_and_those_of_living_ones_kept(folder: Path) -> None:
    """However new they are; a writer that is stopped still holds the lock of its draft."""
    blobs = FileBlobs(folder)
    drafts = folder / ".tmp"
    (drafts / "killed").write_bytes(b"half")
    with (drafts / "stopped").open("wb") as stopped:
        fcntl.flock(stopped, fcntl.LOCK_EX)
        assert blobs.remove_drafts() == 1
        assert [file.name for file in drafts.iterdir()] == ["stopped"]
    assert blobs.remove_drafts() == 1
    assert blobs.put("a/b", b"1")
    assert list(drafts.iterdir()) == []


def test_a_draft_is_locked_while_it_is_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = FileBlobs(folder)
    removed, link = [], os.link

    def link_late(*args, **named):
        removed.append(FileBlobs(folder).remove_drafts())
        link(*args, **named)

    monkeypatch.setattr(os, "link", link_late)
    assert blobs.put("a/b", b"1")
    assert (removed, blobs.get("a/b")) == ([0], b"1")
