"""Open a store by its URL. The libraries of a scheme are imported only when it is used."""

from pathlib import Path
from typing import TYPE_CHECKING

from ouroboros.cache import cache_folder
from ouroboros.domain.errors import InvalidInput
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore
from ouroboros.stores.vectors.base import VectorStore

if TYPE_CHECKING:
    from sqlalchemy import URL

MEMORY = "memory:"
SQLITE = "sqlite:///"
QDRANT = ("qdrant://", "qdrant+https://")
_CLOUDS = ("s3://", "gs://", "az://")


def open_metadata(url: str) -> MetadataStore:
    """Open a metadata store.

    `url` is `sqlite:///relative/file.db`, `sqlite:////absolute/file.db`, `postgresql://...`,
    `qdrant://...`, `qdrant+https://...` or `memory:`. Raises `InvalidInput` for any other URL,
    `MissingExtra` if the store's library is not installed, and `StoreError` if the store cannot be
    opened.
    """
    if url == MEMORY:
        from ouroboros.stores.metadata.memory import MemoryMetadata

        return MemoryMetadata()
    if url.startswith(SQLITE) and url != SQLITE:
        from sqlalchemy import URL

        from ouroboros.stores.metadata.sql import SqlMetadata

        return SqlMetadata(URL.create("sqlite", database=url.removeprefix(SQLITE)))
    if url.startswith(("postgresql://", "postgres://")):
        from ouroboros.stores.metadata.sql import SqlMetadata

        return SqlMetadata(_parse_postgresql_url(url))
    if url.startswith(QDRANT):
        from ouroboros.stores.qdrant.server import QdrantServer

        server = QdrantServer(url)  # first: it raises `MissingExtra` if the library is missing
        from ouroboros.stores.metadata.qdrant import QdrantMetadata

        return QdrantMetadata(server)
    raise _unknown_store_error(
        "metadata", url, "sqlite:///PATH, postgresql://HOST/DATABASE, qdrant://HOST"
    )


def open_vectors(url: str) -> VectorStore | None:
    """Open the vector store that belongs to a metadata store's URL; None if it has none."""
    if not url.startswith(QDRANT):
        return None
    from ouroboros.stores.qdrant.server import QdrantServer

    server = QdrantServer(url)
    from ouroboros.stores.vectors.qdrant import QdrantVectors

    return QdrantVectors(server)


def open_blobs(url: str) -> BlobStore:
    """Open a blob store.

    `url` is `file:///absolute/folder`, `s3://...`, `gs://...`, `az://...` or `memory:`. Raises as
    `open_metadata` does.
    """
    if url == MEMORY:
        from ouroboros.stores.blobs.memory import MemoryBlobs

        return MemoryBlobs()
    if url.startswith("file:///"):
        from ouroboros.stores.blobs.files import FileBlobs

        return FileBlobs(Path(url.removeprefix("file://")))
    if url.startswith(_CLOUDS):
        from ouroboros.stores.blobs.objects import ObjectBlobs

        return ObjectBlobs(url)
    raise _unknown_store_error("blob", url, "file:///PATH, s3://BUCKET/PREFIX, gs://..., az://...")


def cached_blobs(blobs: BlobStore, url: str, limit: int) -> BlobStore:
    """Add a cache of up to `limit` bytes on this machine to a cloud's store; others stay as they are.

    The cache is in `$XDG_CACHE_HOME/ouroboros/blobs`, or `~/.cache/ouroboros/blobs`. A `limit` of 0
    turns it off.
    """
    if limit == 0 or not url.startswith(_CLOUDS):
        return blobs
    from ouroboros.stores.blobs.cache import CachedBlobs
    from ouroboros.stores.blobs.objects import custom_endpoint

    return CachedBlobs(blobs, f"{custom_endpoint(url)} {url}", cache_folder() / "blobs", limit)


def _parse_postgresql_url(url: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    try:
        parsed = make_url(url)
    except (SQLAlchemyError, ValueError):
        parsed = None
    if parsed is None or not parsed.database:
        raise InvalidInput(
            "The postgresql URL cannot be read.",
            hint="It looks like: postgresql://USER@HOST:5432/DATABASE",
        )
    return parsed.set(drivername="postgresql")


def _unknown_store_error(kind: str, url: str, url_forms: str) -> InvalidInput:
    """The error for a URL of unknown form. It does not repeat the URL, which may contain a password."""
    scheme = url.partition(":")[0] if ":" in url else ""
    return InvalidInput(
        f"No {kind} store is known for {scheme!r}." if scheme else f"{url!r} is not a store's URL.",
        hint=f"Use one of {url_forms}, {MEMORY}",
    )
