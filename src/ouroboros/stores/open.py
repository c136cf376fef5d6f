"""Opening a store by its URL; what a scheme needs is imported only when it is used."""

from pathlib import Path

from ouroboros.domain.errors import InvalidInput
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore

MEMORY = "memory:"


def open_metadata(url: str) -> MetadataStore:
    """`sqlite:///path/to/file.db`, or `memory:`."""
    if url == MEMORY:
        from ouroboros.stores.metadata.memory import MemoryMetadata

        return MemoryMetadata()
    if url.startswith("sqlite:///"):
        from ouroboros.stores.metadata.sql import SqlMetadata

        return SqlMetadata(url)
    raise _unknown("metadata", url, "sqlite:///PATH")


def open_blobs(url: str) -> BlobStore:
    """`file:///path/to/folder`, or `memory:`."""
    if url == MEMORY:
        from ouroboros.stores.blobs.memory import MemoryBlobs

        return MemoryBlobs()
    if url.startswith("file://"):
        from ouroboros.stores.blobs.files import FileBlobs

        return FileBlobs(Path(url.removeprefix("file://")))
    raise _unknown("blob", url, "file:///PATH")


def _unknown(kind: str, url: str, known: str) -> InvalidInput:
    scheme = url.partition(":")[0]
    return InvalidInput(
        f"No {kind} store is known for {scheme!r}.", hint=f'Use {known} or "{MEMORY}".'
    )
