"""Verbs that only read do not create a store."""

from ouroboros.build import store_exists
from ouroboros.domain.errors import NotFound
from ouroboros.settings import Settings


def require_store(settings: Settings) -> None:
    """Raises `NotFound` if there is no store yet."""
    if not store_exists(settings):
        raise NotFound(
            f"There is no store at {settings.store}.",
            hint="Name it with --store, or create an adapter first: ouroboros create NAME",
        )
