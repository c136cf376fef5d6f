"""Hub ids: asked about once, before anything is fetched, so that a mistyped name is told at once."""

import difflib

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # its client's, named httpx or httpx2
    RepositoryNotFoundError,
)
from transformers.utils.hub import cached_file

from ouroboros.domain.errors import ModelError

SECONDS = 10.0
"""To wait for the hub's answer. Fetching retries for a minute; this question is asked once."""


def check_hub(name: str, known: str) -> None:
    """Raise `ModelError` unless the hub id is cached here or the hub has it; `known` is our own name."""
    if _cached(name):
        return
    meant = f' Did you mean "{known}"?' if difflib.get_close_matches(name, [known]) else ""
    try:
        HfApi().model_info(name, timeout=SECONDS)
    except (RepositoryNotFoundError, ValueError) as error:
        raise ModelError(
            f"There is no base model {name!r}: no such folder, and no such id on the hub.{meant}",
            hint="Check the name; a private or gated model needs you to log in to the hub.",
        ) from error
    except (HTTPError, OSError) as error:
        raise ModelError(
            f"There is no folder {name!r}, and the hub cannot be asked for it.{meant}",
            hint='Give a folder, a model that was fetched before, or "starter", which needs no network.',
        ) from error


def _cached(name: str) -> bool:
    try:
        return cached_file(name, "config.json", local_files_only=True) is not None
    except (OSError, ValueError):
        return False
