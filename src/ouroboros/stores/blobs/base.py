"""The blob store protocol: put-if-absent, get, list, delete."""

import re
from collections.abc import Iterator
from typing import Protocol

from ouroboros.domain.errors import StoreError

_KEY = re.compile(r"[a-z0-9_][a-z0-9._-]*(?:/[a-z0-9_][a-z0-9._-]*)*", re.ASCII)


def check_key(key: str) -> None:
    """Refuse a key that could leave the store or name something hidden: "..", a leading "/" or "."."""
    if not _KEY.fullmatch(key) or len(key) > 512:
        raise StoreError(f"{key[:100]!r} is not a blob key.", hint="Keys are made by the registry only.")


class BlobStore(Protocol):
    """Immutable bytes under slash-separated keys of lower-case letters, digits, ".", "_" and "-".

    Methods block (callers use threads) and raise `StoreError` when the store cannot do its work.
    """

    def put(self, key: str, data: bytes) -> bool:
        """Store if absent: True if this call stored it, False if it was there. Durable on return."""
        ...

    def get(self, key: str) -> bytes:
        """The whole blob; `NotFound` if there is none."""
        ...

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with `prefix`, in order."""
        ...

    def delete(self, key: str) -> None:
        """Remove the blob if it is there."""
        ...

    def close(self) -> None:
        """Release connections."""
        ...
