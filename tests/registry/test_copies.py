"""A registry that reads through copies: what is removed leaves none; a check reads the store itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.names import AdapterId
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.cache import CachedBlobs
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata

TICKETS = AdapterId("tickets")


@pytest.fixture
def blobs() -> MemoryBlobs:
    return MemoryBlobs()


@pytest.fixture
def copied(
    blobs: MemoryBlobs, base: BaseModel, make_files: Callable[[object], AdapterFiles], tmp_path: Path
) -> Registry:
    """With one version, whose two files are copied."""
    registry = Registry(MemoryMetadata(), blobs, CachedBlobs(blobs, "s3://mine", tmp_path, 2**20))
    registry.create_adapter(TICKETS, AdapterConfig(), base, make_files(1))
    (version,) = registry.list_versions(TICKETS)
    registry.load_files(version)
    assert len(copies(tmp_path)) == 2
    return registry


def copies(folder: Path) -> list[Path]:
    return [f for f in folder.rglob("*") if f.is_file() and f.name != ".lock"]


def test_a_version_is_read_from_its_copy(copied: Registry, blobs: MemoryBlobs) -> None:
    for key in list(blobs.list()):
        blobs.delete(key)
    (version,) = copied.list_versions(TICKETS)
    assert copied.load_files(version).digest == version.digest


def test_a_check_sees_what_the_store_lost(copied: Registry, blobs: MemoryBlobs) -> None:
    for key in list(blobs.list()):
        blobs.delete(key)
    assert [d.words for d in check_store(copied).damages]


def test_a_deleted_adapter_leaves_no_copy(copied: Registry, tmp_path: Path) -> None:
    copied.delete_adapter(TICKETS)
    assert copies(tmp_path) == []


def test_swept_weights_leave_no_copy(copied: Registry, tmp_path: Path) -> None:
    copied.weights.sweep(list(copied.weights.list_digests()), set)
    assert copies(tmp_path) == []
