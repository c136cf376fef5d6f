"""Blobs in this process's memory, for tests and experiments."""

import threading
from collections.abc import Iterator

from ouroboros.domain.errors import NotFound
from ouroboros.stores.blobs.base import check_key


class MemoryBlobs:
    """Blobs in a dictionary, lost when the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blobs: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> bool:
        check_key(key)
        with self._lock:
            return self._blobs.setdefault(key, stored := bytes(data)) is stored

    def get(self, key: str) -> bytes:
        check_key(key)
        try:
            return self._blobs[key]
        except KeyError:
            raise NotFound(f"There is no blob {key}.", hint="It was deleted, or never stored.") from None

    def list(self, prefix: str = "") -> Iterator[str]:
        with self._lock:
            keys = sorted(self._blobs)
        return (key for key in keys if key.startswith(prefix))

    def delete(self, key: str) -> None:
        check_key(key)
        with self._lock:
            self._blobs.pop(key, None)

    def remove_drafts(self) -> int:
        """Nothing is written in parts."""
        return 0

    def close(self) -> None:
        """Nothing to release."""
