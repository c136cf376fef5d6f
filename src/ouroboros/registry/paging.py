"""Reading a whole collection or log, page by page."""

from collections.abc import Iterator

from ouroboros.stores.metadata.base import LogEntry, MetadataStore, Record

PAGE_SIZE = 1000


def read_records(
    metadata: MetadataStore,
    collection: str,
    prefix: str = "",
    after: str = "",
    page_size: int = PAGE_SIZE,
) -> Iterator[Record]:
    """Every record of a collection whose key starts with `prefix` and sorts after `after`, in order."""
    while records := metadata.scan(collection, prefix=prefix, after=after, limit=page_size):
        yield from records
        after = records[-1].key


def read_entries(metadata: MetadataStore, log: str) -> Iterator[LogEntry]:
    """Every entry of a log, in order."""
    after = 0
    while page := metadata.read(log, after=after, limit=PAGE_SIZE):
        yield from page
        after = page[-1].seq
