"""Erasing events, and every version that learned from them.

1. `begin_erasure` writes a note with the events' numbers, then erases the events from the journal.
2. The engine makes the affected versions again from the rest of the journal.
3. `finish_erasure` removes the affected versions and their weights, and last the note.

While the note exists, an erasure that a crash interrupted can be resumed.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ouroboros.domain.errors import Conflict
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.lineage import sort_by_ancestry
from ouroboros.registry.paging import read_records
from ouroboros.registry.registry import Registry
from ouroboros.stores.metadata.base import MetadataStore

FORGETTING = "forgetting"


@dataclass(frozen=True, slots=True)
class ErasureNote:
    """Events of an adapter that are being erased; versions up to `below` may have learned them."""

    adapter: AdapterId
    events: tuple[int, ...]
    below: int

    def affects(self, version: Version) -> bool:
        """Whether the version may have learned from the events: it was made after the first of them."""
        made_after = version.events is not None and version.events >= min(self.events)
        return version.adapter == self.adapter and version.number <= self.below and made_after


def begin_erasure(registry: Registry, events: Mapping[AdapterId, Collection[int]]) -> list[ErasureNote]:
    """Write notes of the events to erase, then erase them; returns all notes, earlier ones too."""
    metadata, _ = registry.stores
    for adapter, numbers in events.items():
        _write_note(metadata, adapter, numbers, registry.version_rows.last_number(adapter))
    noted = read_notes(registry)
    for note in noted:
        for number in note.events:
            registry.journal.erase(note.adapter, number, number)
    return noted


def read_notes(registry: Registry) -> list[ErasureNote]:
    """Return the notes of erasures that are under way or were interrupted."""
    metadata, _ = registry.stores
    return [
        decode(ErasureNote, r.value, f"forgetting in {r.key!r}")
        for r in read_records(metadata, FORGETTING)
    ]


def find_affected_versions(registry: Registry, noted: Iterable[ErasureNote]) -> list[Version]:
    """Return the versions that may have learned the events, and their descendants, parents first."""
    found = {v.ref: v for note in noted for v in _all_versions(registry) if note.affects(v)}
    rest = [v for v in _all_versions(registry) if v.ref not in found] if found else []
    while more := [v for v in rest if any(p in found for p in v.parents)]:
        found |= {v.ref: v for v in more}
        rest = [v for v in rest if v.ref not in found]
    return sort_by_ancestry(found.values())


def finish_erasure(
    registry: Registry, noted: Collection[ErasureNote], versions: Collection[Version]
) -> None:
    """Remove versions with their weights and caches, the notes, and the store's traces of both."""
    digests = registry.version_rows.remove(versions)
    registry.weights.sweep(digests, registry.version_rows.read_digests)
    for adapter in {v.adapter for v in versions}:
        registry.scores.drop(adapter)
        registry.profiles.drop(adapter)
    _drop_jobs(registry, noted, {v.adapter for v in versions})
    metadata, _ = registry.stores
    metadata.scrub()
    for note in noted:
        record = metadata.get(FORGETTING, note.adapter.name)
        if record is not None:
            with suppress(Conflict):
                metadata.delete(FORGETTING, note.adapter.name, expected=record.revision)


def _drop_jobs(
    registry: Registry, noted: Collection[ErasureNote], adapters: Collection[AdapterId]
) -> None:
    """Remove jobs on erased events and restart the others: checkpoints hold what was learned before."""
    erased = {(note.adapter, number) for note in noted for number in note.events}
    for job in registry.jobs.read_all():
        if (job.adapter, job.event) in erased:
            registry.jobs.remove(job.id)
        elif job.adapter in adapters or any(job.adapter == note.adapter for note in noted):
            registry.jobs.restart(job.id)


def find_user_events(registry: Registry, user: str) -> dict[AdapterId, list[int]]:
    """Return the numbers of the events with a user's judgements, by adapter."""
    found = {}
    for adapter in registry.list_adapters():
        numbers = [
            e.seq
            for e in registry.journal.read_all(adapter.id)
            if isinstance(e.event, FeedbackGiven) and e.event.user == user
        ]
        if numbers:
            found[adapter.id] = numbers
    return found


def _all_versions(registry: Registry) -> list[Version]:
    return [
        v for adapter in registry.list_adapters() for v in registry.version_rows.read_all(adapter.id)
    ]


def _write_note(
    metadata: MetadataStore, adapter: AdapterId, events: Collection[int], below: int
) -> None:
    record = metadata.get(FORGETTING, adapter.name)
    before = decode(ErasureNote, record.value, "a note").events if record else ()
    note = ErasureNote(adapter, tuple(sorted({*before, *events})), below)
    metadata.put(FORGETTING, adapter.name, encode(note), expected=record.revision if record else 0)


def collect_ancestor_refs(versions: Iterable[Version], head: VersionRef) -> set[VersionRef]:
    """Return the head and its ancestors, as far as they are among `versions`."""
    known = {v.ref: v for v in versions}
    found: set[VersionRef] = set()
    waiting = [head]
    while waiting:
        ref = waiting.pop()
        if ref in known and ref not in found:
            found.add(ref)
            waiting += known[ref].parents
    return found
