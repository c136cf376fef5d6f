"""The blob store protocol: put-if-absent, get, list, delete."""

import re
from collections.abc import Iterator
from typing import Protocol

from ouroboros.domain.errors import StoreError

_KEY = re.compile(r"[a-z0-9_][a-z0-9._-]*(?:/[a-z0-9_][a-z0-9._-]*)*", re.ASCII)


def check_key(key: str) -> None:
    """Raise `StoreError` for a key that could leave the store or hide: "..", a leading "/" or "."."""
    if not _KEY.fullmatch(key) or len(key) > 512:
        raise StoreError(f"{key[:100]!r} is not a blob key.", hint="Only the registry makes keys.")


class BlobStore(Protocol):
    """Immutable bytes under slash-separated keys of lower-case letters, digits, ".", "_" and "-".

    Methods block (callers use threads). They raise `StoreError` when the store fails.
    """

    def put(self, key: str, data: bytes) -> bool:
        """Store the blob unless the key exists.

        Returns whether this call stored it. Durable on return.
        """
        ...

    def get(self, key: str) -> bytes:
        """Return the whole blob. Raises `NotFound` if the key does not exist."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys that start with `prefix`, in code point order."""
        ...

    def delete(self, key: str) -> None:
        """Delete the blob if it exists."""
        ...

    def remove_drafts(self) -> int:
        """Remove what killed writers left of blobs that they did not complete; returns how many."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
