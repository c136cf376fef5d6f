"""A registry on real stores, and the small values that it keeps."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ouroboros.domain.base_model import BaseModel, Fingerprint
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata


@pytest.fixture
def base() -> BaseModel:
    fingerprint = Fingerprint("c", "t", "m", "w", 10)
    return BaseModel("tiny", fingerprint, "llama", 8, 2, 64, 1000, ())


@pytest.fixture
def make_files() -> Callable[[object], AdapterFiles]:
    """Files that differ with their argument."""
    return lambda content: AdapterFiles(json.dumps({"r": 8}).encode(), repr(content).encode() * 100)


@pytest.fixture
def open_registry(tmp_path: Path) -> Callable[[], Registry]:
    """Opens the same registry again: SQLite and files."""
    return lambda: Registry(
        open_metadata(f"sqlite:///{tmp_path}/metadata.db"), open_blobs(f"file://{tmp_path}/blobs")
    )


@pytest.fixture
def registry(open_registry: Callable[[], Registry]):
    opened = open_registry()
    yield opened
    opened.close()
