"""The journal: the ordered record of examples and feedback, durable before it is acknowledged.

An event is read back from its own bytes before it is stored, and stored with a digest. One that was
damaged later is left out by readers, so that it stops nothing else; `find_damage` names it. Numbers of
erased events are recorded, so that an event that is merely missing is seen. Events of older programs
have no digest, and are checked as far as they go.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Conflict, InvalidExample, StoreError
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.names import AdapterId
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.paging import read_entries
from ouroboros.stores.metadata.base import UNREADABLE, Guard, Json, LogEntry, MetadataStore, dump_json


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """An event and its place in the adapter's journal."""

    seq: int
    event: Event


@dataclass(frozen=True, slots=True)
class JournalDamage:
    """An event that cannot be read, or is missing, and how, in words."""

    seq: int
    words: str
    missing: bool = False


ERASED = "erased"
"""The ranges of numbers whose events were erased, by adapter."""

_DIGEST = "sum"


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
        being given, and `InvalidExample` if the event could not be read back.
        """
        try:
            value = encode(event)
            _decode(json.loads(dump_json(value)), "this event")
        except (StoreError, ValueError) as error:
            raise InvalidExample(
                f"This cannot be stored: {error}", hint="Give texts and finite numbers of ordinary size."
            ) from error
        return self._metadata.append(_log(adapter), _seal(value), guards=guards)

    def read(self, adapter: AdapterId, after: int = 0, limit: int = 1000) -> list[JournalEntry]:
        """Events with a sequence number above `after`, in order. Damaged ones are left out."""
        events: list[JournalEntry] = []
        while (wanted := limit - len(events)) > 0:
            page = self._metadata.read(_log(adapter), after=after, limit=wanted)
            events += filter(None, map(_read_event, page))
            if len(page) < wanted:
                break
            after = page[-1].seq
        return events

    def read_all(self, adapter: AdapterId) -> Iterator[JournalEntry]:
        """Every event, in order. Damaged ones are left out."""
        yield from filter(None, map(_read_event, read_entries(self._metadata, _log(adapter))))

    def find_damage(self, adapter: AdapterId, born: int, applied: int) -> Iterator[JournalDamage]:
        """Every event after number `born` that cannot be read, was changed, or is missing.

        `applied` is the last event that is known to have been there.
        """
        last, erased = self.last_seq(adapter), self._read_erased(adapter)
        previous: int | None = None  # the last event since the first one with a digest
        for entry in read_entries(self._metadata, _log(adapter)):
            if previous is not None:
                yield from _find_missing(previous + 1, entry.seq, erased)
            if previous is not None or _DIGEST in entry.value:
                previous = entry.seq
            try:
                _open(entry.value, f"event {entry.seq} of {adapter}")
            except StoreError as error:
                yield JournalDamage(entry.seq, error.message)
        if previous is not None:
            yield from _find_missing(previous + 1, last + 1, erased)
        yield from _find_missing(max(last, born) + 1, applied + 1, [])

    def find_damaged_events_of(self, adapter: AdapterId, user: str) -> Iterator[int]:
        """The numbers of damaged events whose remaining text names a user."""
        name = json.dumps(user, ensure_ascii=False)
        for entry in read_entries(self._metadata, _log(adapter)):
            if _read_event(entry) is None and name in dump_json(entry.value).replace("\\", ""):
                yield entry.seq

    def last_seq(self, adapter: AdapterId) -> int:
        """Return the last event's sequence number, erased or not; 0 if there never was an event."""
        return self._metadata.last(_log(adapter))

    def erase(self, adapter: AdapterId, first: int, last: int) -> None:
        """Erase events `first` to `last`; the other events keep their numbers."""
        if first > last:
            return
        while True:
            record = self._metadata.get(ERASED, adapter.name)
            ranges = _merge_ranges([*self._read_erased(adapter), (first, last)])
            expected = record.revision if record else 0
            with suppress(Conflict):  # another program erases as well
                value = {"ranges": [list(pair) for pair in ranges]}
                self._metadata.put(ERASED, adapter.name, value, expected=expected)
                break
        self._metadata.erase(_log(adapter), first, last)

    def drop(self, adapter: AdapterId, last: int) -> None:
        """Erase all events up to `last` of an adapter that was deleted, and the record of erasures."""
        if last:
            self._metadata.erase(_log(adapter), 1, last)
        record = self._metadata.get(ERASED, adapter.name)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(ERASED, adapter.name, expected=record.revision)

    def _read_erased(self, adapter: AdapterId) -> list[tuple[int, int]]:
        record = self._metadata.get(ERASED, adapter.name)
        ranges = record.value.get("ranges", []) if record else []
        return [(pair[0], pair[1]) for pair in ranges]


_KINDS: dict[str, type[Event]] = {
    "examples": ExamplesGiven,
    "feedback": FeedbackGiven,
    "pinned": Pinned,
    "unpinned": Unpinned,
}


def _seal(value: Json) -> Json:
    """The value with the digest of the rest of it."""
    return {**value, _DIGEST: _digest(value)}


def _digest(value: Json) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return sha256(text.encode()).hexdigest()[:32]


def _open(value: Json, what: str) -> Event:
    """Decode a stored event; raises `StoreError` if it was damaged."""
    if UNREADABLE in value:
        raise StoreError(f"The store's record of {what} is not JSON.", hint="It was damaged.")
    content = {key: inner for key, inner in value.items() if key != _DIGEST}
    event = _decode(content, what)
    if _DIGEST in value and value[_DIGEST] != _digest(content):
        raise StoreError(f"The store's record of {what} was changed.", hint="It was damaged.")
    return event


def _read_event(entry: LogEntry) -> JournalEntry | None:
    try:
        return JournalEntry(entry.seq, _open(entry.value, f"event {entry.seq}"))
    except StoreError:
        return None


def _find_missing(first: int, end: int, erased: Sequence[tuple[int, int]]) -> Iterator[JournalDamage]:
    for seq in range(first, end):
        if not any(low <= seq <= high for low, high in erased):
            yield JournalDamage(seq, f"event {seq} is missing, and was not erased", missing=True)


def _merge_ranges(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return merged


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
