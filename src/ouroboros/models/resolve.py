"""From what a user names as the model to a folder: names and GGUF files; anything else as it is."""

from pathlib import Path

from ouroboros.models import gguf_convert, smollm2
from ouroboros.models.digests import file_digest
from ouroboros.models.gguf_header import has_gguf_magic
from ouroboros.models.model_cache import get_or_build
from ouroboros.starter import starter_path

STARTER = "starter"
"""The name of the bundled model."""

BY_NAME = (STARTER, smollm2.NAME)
"""Models that are known by a name of their own."""


def resolve_model(name: str) -> str:
    """The folder of a model by name ("starter", "smollm2") or of a GGUF file; anything else unchanged.

    The first time, "smollm2" is fetched and a GGUF file converted. Raises `ModelError` when that fails.
    """
    if name == STARTER:
        return str(starter_path())
    if name == smollm2.NAME:
        return str(smollm2.get_smollm2())
    if is_gguf(name):
        return str(get_gguf(Path(name).expanduser()))
    return name


def is_gguf(name: str) -> bool:
    """Whether this names a GGUF file: by its ending, or as Ollama's blobs by its first bytes."""
    path = Path(name).expanduser()
    if name.lower().endswith(".gguf"):
        return not path.is_dir()
    try:
        return path.is_file() and has_gguf_magic(path)
    except (OSError, ValueError):  # too long for a path, or a zero byte
        return False


def get_gguf(path: Path) -> Path:
    """The folder that a GGUF file is converted to: named by its content, so a copy of it is known."""
    header = gguf_convert.check_gguf(path)
    digest = file_digest(path)
    return get_or_build(
        f"gguf-{digest[:32]}", lambda folder: gguf_convert.convert_gguf(path, folder, header, digest)
    )
