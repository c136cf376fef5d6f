"""Hub ids: asked about once, before anything is fetched, so that a mistyped name is told at once."""

import difflib

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HTTPError,  # pyright: ignore[reportPrivateImportUsage]  # its client's, named httpx or httpx2
    RepositoryNotFoundError,
)
from transformers.utils.hub import cached_file

from ouroboros.domain.errors import ModelError

TIMEOUT_SECONDS = 10.0
"""To wait for the hub's answer. Fetching retries for a minute; this question is asked once."""


def check_hub(name: str, starter: str) -> None:
    """Raise `ModelError` unless the hub id is cached here or the hub has it.

    `starter` is the bundled model's name, suggested for a near miss.
    """
    if _is_cached(name):
        return
    suggestion = f' Did you mean "{starter}"?' if difflib.get_close_matches(name, [starter]) else ""
    try:
        HfApi().model_info(name, timeout=TIMEOUT_SECONDS)
    except (RepositoryNotFoundError, ValueError) as error:
        raise ModelError(
            f"There is no base model {name!r}: no such folder, and no such id on the hub.{suggestion}",
            hint="Check the name; a private or gated model needs you to log in to the hub.",
        ) from error
    except (HTTPError, OSError) as error:
        raise ModelError(
            f"There is no folder {name!r}, and the hub cannot be asked for it.{suggestion}",
            hint='Give a folder, a model that was fetched before, or "starter", which needs no network.',
        ) from error


def _is_cached(name: str) -> bool:
    try:
        return cached_file(name, "config.json", local_files_only=True) is not None
    except (OSError, ValueError):
        return False
