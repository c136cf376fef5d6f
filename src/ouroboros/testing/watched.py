"""Stores whose writes can be interrupted: a callback runs at a named point before and after each
write."""

from collections.abc import Callable, Iterator, Sequence

from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import Guard, Json, LogEntry, MetadataStore, Record

OnPoint = Callable[[str], None]
"""Called with a point's name, like "before put adapters"; may raise, or never return."""


class WatchedMetadata:
    """A wrapper of a metadata store. Points are named by the method and its collection or log."""

    def __init__(self, store: MetadataStore, on_point: OnPoint) -> None:
        self._store = store
        self._on_point = on_point

    def get(self, collection: str, key: str) -> Record | None:
        return self._store.get(collection, key)

    def put(
        self, collection: str, key: str, value: Json, *, expected: int, guards: Sequence[Guard] = ()
    ) -> Record:
        self._on_point(f"before put {collection}")
        record = self._store.put(collection, key, value, expected=expected, guards=guards)
        self._on_point(f"after put {collection}")
        return record

    def delete(self, collection: str, key: str, *, expected: int) -> None:
        self._on_point(f"before delete {collection}")
        self._store.delete(collection, key, expected=expected)
        self._on_point(f"after delete {collection}")

    def scan(
        self, collection: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> list[Record]:
        return self._store.scan(collection, prefix=prefix, after=after, limit=limit)

    def append(self, log: str, value: Json, *, guards: Sequence[Guard] = ()) -> int:
        kind = log.partition("/")[0]
        self._on_point(f"before append {kind}")
        seq = self._store.append(log, value, guards=guards)
        self._on_point(f"after append {kind}")
        return seq

    def read(self, log: str, *, after: int = 0, limit: int = 1000) -> list[LogEntry]:
        return self._store.read(log, after=after, limit=limit)

    def erase(self, log: str, first: int, last: int) -> None:
        kind = log.partition("/")[0]
        self._on_point(f"before erase {kind}")
        self._store.erase(log, first, last)
        self._on_point(f"after erase {kind}")

    def scrub(self) -> None:
        self._on_point("before scrub")
        self._store.scrub()
        self._on_point("after scrub")

    def collections(self) -> list[str]:
        return self._store.collections()

    def logs(self) -> list[str]:
        return self._store.logs()

    def last(self, log: str) -> int:
        return self._store.last(log)

    def close(self) -> None:
        self._store.close()


class WatchedBlobs:
    """A wrapper of a blob store. Points are named by the method and the blob's file."""

    def __init__(self, store: BlobStore, on_point: OnPoint) -> None:
        self._store = store
        self._on_point = on_point

    def put(self, key: str, data: bytes) -> bool:
        self._on_point(f"before store {_file_kind(key)}")
        stored = self._store.put(key, data)
        self._on_point(f"after store {_file_kind(key)}")
        return stored

    def get(self, key: str) -> bytes:
        return self._store.get(key)

    def list(self, prefix: str = "") -> Iterator[str]:
        return self._store.list(prefix)

    def delete(self, key: str) -> None:
        self._on_point(f"before remove {_file_kind(key)}")
        self._store.delete(key)
        self._on_point(f"after remove {_file_kind(key)}")

    def remove_drafts(self) -> int:
        self._on_point("before remove drafts")
        removed = self._store.remove_drafts()
        self._on_point("after remove drafts")
        return removed

    def close(self) -> None:
        self._store.close()


def _file_kind(key: str) -> str:
    """The file name for an adapter, the folder for anything else; digests are left out."""
    folder, _, file = key.partition("/")
    return file.rpartition("/")[2] or folder if folder == "adapters" else folder
