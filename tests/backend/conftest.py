"""Tiny real models, built once per run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import BaseRuntime, load_base
from ouroboros.testing.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of a tiny model of an architecture."""
    folders: dict[tuple, Path] = {}

    def folder(architecture: str = "llama", **changes: Any) -> Path:
        key = (architecture, *sorted(changes.items()))
        if key not in folders:
            folders[key] = tiny_model(tmp_path_factory.mktemp(architecture), architecture, **changes)
        return folders[key]

    return folder


@pytest.fixture
def runtime(tiny_folder: Callable[..., Path]) -> BaseRuntime:
    return load_base(str(tiny_folder()), dtype="float32")


@pytest.fixture
def frozen(runtime: BaseRuntime) -> BaseRuntime:
    return runtime


@pytest.fixture
async def backend(tiny_folder: Callable[..., Path]):
    backend = LocalBackend.open(str(tiny_folder()), dtype="float32", threads=1)
    yield backend
    await backend.close()
