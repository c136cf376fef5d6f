"""A model's folder, checked by its files alone before a tensor library opens any of them."""

import json
import math
from pathlib import Path
from typing import Any

from ouroboros.domain.errors import ModelError
from ouroboros.models.limits import check_config

MAX_CONFIG = 8 << 20
MAX_HEADER = 100 << 20
"""Bytes of a safetensors header; the format's own library takes no longer one."""

_POINTER = b"version https://git-lfs"


def check_config_file(folder: Path) -> None:
    """Raise `ModelError` unless config.json is an object whose sizes are those of a model."""
    path = folder / "config.json"
    try:
        size = path.stat().st_size
        config = json.loads(path.read_text(encoding="utf-8")) if size <= MAX_CONFIG else None
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror}.", hint="Check the folder."
        ) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"The model in {folder} cannot be loaded: its config.json is not that of a causal language"
            " model, it is not JSON.",
            hint="Fetch the model again.",
        ) from error
    if not isinstance(config, dict):
        raise ModelError(
            f"The model in {folder} cannot be loaded: its config.json is no object of at most 8 MiB.",
            hint="Fetch the model again.",
        )
    check_config(config, str(folder))


def check_weight_files(folder: Path) -> None:
    """Raise `ModelError` where a safetensors file is cut, empty, or a pointer of Git LFS."""
    for path in sorted(folder.glob("*.safetensors")):
        read_weights_header(path)


def read_weights_header(path: Path) -> dict[str, Any]:
    """The tensors of a safetensors file by name, as its header describes them.

    Raises `ModelError` unless the data of every tensor lies within the file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            if start == _POINTER[:8]:
                raise ModelError(
                    f"{path} is a Git LFS pointer: the weights themselves were not fetched.",
                    hint=f"Fetch them: git -C {path.parent} lfs pull",
                )
            length = int.from_bytes(start, "little")
            if len(start) < 8 or not 2 <= length <= min(MAX_HEADER, size - 8):
                raise _damage_error(path, "it is empty" if not size else "its header is cut")
            header = json.loads(file.read(length))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", hint="Check the file.") from error
    except (ValueError, RecursionError) as error:
        raise _damage_error(path, "its header is not JSON") from error
    if not isinstance(header, dict):
        raise _damage_error(path, "its header is no object")
    header.pop("__metadata__", None)
    for name, entry in header.items():
        _check_entry(path, name, entry, size - 8 - length)
    return header


def _check_entry(path: Path, name: str, entry: Any, available: int) -> None:
    try:
        first, last = entry["data_offsets"]
        shape = entry["shape"]
        numbers = [first, last, *shape]
        if any(type(n) is not int or n < 0 for n in numbers) or math.prod(shape) > 1 << 45:
            raise ValueError
    except (TypeError, ValueError, KeyError):
        raise _damage_error(path, f"the tensor {name[:80]!r} is described wrongly") from None
    if not first <= last <= available:
        raise _damage_error(path, f"it is cut: the data of {name[:80]!r} lies behind its end")


def _damage_error(path: Path, why: str) -> ModelError:
    return ModelError(f"{path} is damaged: {why}.", hint="Fetch the model again.")
