"""The journal: the ordered record of examples and feedback, durable before it is acknowledged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import StoreError
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.names import AdapterId
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.paging import read_entries
from ouroboros.stores.metadata.base import Guard, Json, MetadataStore


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event and its place in the adapter's journal."""

    seq: int
    event: Event


class Journal:
    """One append-only log per adapter."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    def append_examples(
        self, adapter: AdapterId, examples: Sequence[TrainingExample], *guards: Guard
    ) -> int:
        """Record examples; returns their sequence number once they are durable."""
        return self.append(adapter, ExamplesGiven(tuple(examples), datetime.now(UTC)), *guards)

    def append(self, adapter: AdapterId, event: Event, *guards: Guard) -> int:
        """Record an event; returns its sequence number once it is durable.

        Raises `Fenced` unless the `guards` hold, which see to it that data is not erased while it is
        being given.
        """
        return self._metadata.append(_log(adapter), encode(event), guards=guards)

    def read(self, adapter: AdapterId, after: int = 0, limit: int = 1000) -> list[JournalEntry]:
        """Events with a sequence number above `after`, in order."""
        return [
            JournalEntry(e.seq, _decode(e.value, f"event {e.seq} of {adapter}"))
            for e in self._metadata.read(_log(adapter), after=after, limit=limit)
        ]

    def read_all(self, adapter: AdapterId) -> Iterator[JournalEntry]:
        """Every event, in order."""
        for e in read_entries(self._metadata, _log(adapter)):
            yield JournalEntry(e.seq, _decode(e.value, f"event {e.seq} of {adapter}"))

    def last_seq(self, adapter: AdapterId) -> int:
        """Return the last event's sequence number, erased or not; 0 if there never was an event."""
        return self._metadata.last(_log(adapter))

    def erase(self, adapter: AdapterId, first: int, last: int) -> None:
        """Erase events `first` to `last`; the other events keep their numbers."""
        self._metadata.erase(_log(adapter), first, last)


_KINDS: dict[str, type[Event]] = {
    "examples": ExamplesGiven,
    "feedback": FeedbackGiven,
    "pinned": Pinned,
    "unpinned": Unpinned,
}


def _decode(value: Json, what: str) -> Event:
    kind = _KINDS.get(value.get("kind", ""))
    if kind is None:
        raise StoreError(
            f"The store's record of {what} is of the unknown kind {value.get('kind')!r}.",
            hint="It was written by a newer version of ouroboros.",
        )
    return decode(kind, value, what)


def _log(adapter: AdapterId) -> str:
    return f"journal/{adapter}"
