"""Reading a collection or a log to its end, a page at a time."""

from collections.abc import Iterator

from ouroboros.stores.metadata.base import LogEntry, MetadataStore, Record

PAGE = 1000


def read_records(
    metadata: MetadataStore, collection: str, prefix: str = "", after: str = "", page: int = PAGE
) -> Iterator[Record]:
    """Every record of a collection whose key starts with `prefix` and sorts behind `after`, in order."""
    while found := metadata.scan(collection, prefix=prefix, after=after, limit=page):
        yield from found
        after = found[-1].key


def read_entries(metadata: MetadataStore, log: str) -> Iterator[LogEntry]:
    """Every entry of a log, in order."""
    after = 0
    while page := metadata.read(log, after=after, limit=PAGE):
        yield from page
        after = page[-1].seq
