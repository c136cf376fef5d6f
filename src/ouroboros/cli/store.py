"""The store of a verb. The engine is imported when a verb opens it, so that `--help` stays fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ouroboros.domain.errors import NotFound
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine


def open_engine(settings: Settings) -> AdapterLearningEngine:
    """Returns an engine on the store of `settings`, which is created if there is none; see `build`."""
    from ouroboros import build

    return build.open_engine(settings)


def store_exists(settings: Settings) -> bool:
    """Whether there is a store to read; a server's store is assumed to exist."""
    from ouroboros import build

    return build.store_exists(settings)


def require_store(settings: Settings) -> None:
    """Raises `NotFound` if there is no store yet: verbs that only read do not create one."""
    if not store_exists(settings):
        raise NotFound(
            f"There is no store at {settings.store}.",
            hint="Name it with --store, or create an adapter first: ouroboros create NAME",
        )
