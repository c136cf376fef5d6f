"""The composition root: settings in, engine out. The only place that chooses implementations."""

from pathlib import Path
from typing import Any

from ouroboros.backend.base import Backend, Embedder
from ouroboros.backend.lazy import LazyBackend
from ouroboros.backend.sentences import SentenceEmbedder
from ouroboros.domain.errors import InvalidConfig, InvalidInput
from ouroboros.engine import AdapterLearningEngine
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.registry.migrate import Store
from ouroboros.registry.registry import Registry
from ouroboros.settings import Settings
from ouroboros.stores.open import MEMORY, SQLITE, cached_blobs, open_blobs, open_metadata, open_vectors
from ouroboros.sync import SyncEngine


def open_engine(settings: Settings | None = None, **overrides: Any) -> AdapterLearningEngine:
    """An engine on the store and the model of `settings`.

    Without `settings` they are read as the command line reads them, and single ones can be given:
    `open_engine(store="./adapters", model="starter")`. The store is opened, and made if it is not there,
    at once (raises `StoreError`); the model is loaded by the first verb that needs it.
    """
    if settings is None:
        settings = Settings.load(overrides)
    elif overrides:
        raise InvalidConfig(
            "Both settings and single ones are given.", hint="Use dataclasses.replace(settings, ...)."
        )
    return _assemble_engine(settings, _open_registry(settings))


def open_service(settings: Settings) -> tuple[AdapterLearningEngine, Store]:
    """An engine, and the stores that it stands on: a server keeps records of its own beside it."""
    registry = _open_registry(settings)
    return _assemble_engine(settings, registry), Store(*registry.stores)


def _assemble_engine(settings: Settings, registry: Registry) -> AdapterLearningEngine:
    return AdapterLearningEngine(
        LazyBackend(lambda: _open_backend(settings)),
        registry,
        UserLimit(events=settings.feedback_limit),
        GatePolicy(tolerance=settings.tolerance),
        replay_rows=settings.replay_rows,
        auto_rollback=settings.auto_rollback,
        embedder=_open_embedder(settings),
    )


def open_sync_engine(settings: Settings | None = None, **overrides: Any) -> SyncEngine:
    """As `open_engine`, for scripts and notebooks, where nothing is awaited."""
    return SyncEngine(open_engine(settings, **overrides))


def _open_backend(settings: Settings) -> Backend:
    from ouroboros.backend.local import LocalBackend

    return LocalBackend.open(
        settings.model,
        dtype=settings.dtype,
        threads=settings.threads,
        device=settings.device,
        quantize=settings.quantize,
        prompt_bytes=settings.prompt_memory << 20,
    )


def _open_embedder(settings: Settings) -> Embedder | None:
    """None: the base model itself."""
    return SentenceEmbedder() if settings.embedding == "minilm" else None


def _open_registry(settings: Settings) -> Registry:
    stores = open_stores(settings)
    metadata, blobs = store_urls(settings)
    try:
        vectors = open_vectors(metadata)
    except BaseException:
        stores.close()
        raise
    limit = settings.blob_cache * 2**20
    return Registry(stores.metadata, stores.blobs, cached_blobs(stores.blobs, blobs, limit), vectors)


def open_stores(settings: Settings) -> Store:
    """The stores that `settings` name, made if they are not there."""
    metadata, blobs = store_urls(settings)
    opened = open_metadata(metadata)
    try:
        return Store(opened, open_blobs(blobs))
    except BaseException:
        opened.close()
        raise


def store_urls(settings: Settings) -> tuple[str, str]:
    """Where metadata and blobs are kept: in the store's folder, unless a URL says otherwise."""
    if settings.store == MEMORY:
        metadata = blobs = MEMORY
    else:
        try:
            folder = Path(settings.store).expanduser().absolute()
        except RuntimeError:
            raise InvalidInput(
                f"There is no home folder for {settings.store!r}.", hint="Give the store's whole path."
            ) from None
        metadata, blobs = f"sqlite:///{folder / 'metadata.db'}", f"file://{folder / 'blobs'}"
    return settings.metadata or metadata, settings.blobs or blobs


def store_exists(settings: Settings) -> bool:
    """Whether there is anything to read, without making it; a server's store is taken to be there."""
    metadata, _ = store_urls(settings)
    return not metadata.startswith(SQLITE) or Path(metadata.removeprefix(SQLITE)).is_file()
