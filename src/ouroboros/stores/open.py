"""Opening a store by its URL; what a scheme needs is imported only when it is used."""

from pathlib import Path

from ouroboros.domain.errors import InvalidInput
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

MEMORY = "memory:"


def open_metadata(url: str) -> MetadataStore:
    """`sqlite:///relative/file.db`, `sqlite:////absolute/file.db`, or `memory:`."""
    if url == MEMORY:
        from ouroboros.stores.metadata.memory import MemoryMetadata

        return MemoryMetadata()
    if url.startswith("sqlite:///") and len(url) > len("sqlite:///"):
        from sqlalchemy import URL

        from ouroboros.stores.metadata.sql import SqlMetadata

        return SqlMetadata(URL.create("sqlite", database=url.removeprefix("sqlite:///")))
    raise _unknown("metadata", url, "sqlite:///PATH")


def open_blobs(url: str) -> BlobStore:
    """`file:///absolute/folder`, or `memory:`."""
    if url == MEMORY:
        from ouroboros.stores.blobs.memory import MemoryBlobs

        return MemoryBlobs()
    if url.startswith("file:///"):
        from ouroboros.stores.blobs.files import FileBlobs

        return FileBlobs(Path(url.removeprefix("file://")))
    raise _unknown("blob", url, "file:///PATH")


def _unknown(kind: str, url: str, known: str) -> InvalidInput:
    """The URL itself stays out of the message: it may hold a password."""
    scheme = url.partition(":")[0] if ":" in url else ""
    return InvalidInput(
        f"No {kind} store is known for {scheme!r}." if scheme else f"{url!r} is not a store's URL.",
        hint=f"Use {known} or {MEMORY}",
    )
