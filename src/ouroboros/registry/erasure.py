"""Which versions stand on given events, and removing every trace of both.

What is to be forgotten is written down first, as numbers; then the events are erased. From then on it
can be resumed after a crash: versions are made again from what the journal still has, and at the end
those that stood on the events are removed, and the note.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass

from ouroboros.domain.errors import Conflict
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.lineage import in_order
from ouroboros.registry.paging import read_records
from ouroboros.registry.registry import Registry
from ouroboros.stores.metadata.base import MetadataStore

FORGETTING = "forgetting"


@dataclass(frozen=True, slots=True)
class ErasureNote:
    """These events of an adapter are being forgotten; versions up to `below` may stand on them."""

    adapter: AdapterId
    events: tuple[int, ...]
    below: int

    def taints(self, version: Version) -> bool:
        """Whether the version was made when the first of the events could have had a part in it."""
        made_after = version.events is not None and version.events >= min(self.events)
        return version.adapter == self.adapter and version.number <= self.below and made_after


def begin(registry: Registry, events: Mapping[AdapterId, Collection[int]]) -> list[ErasureNote]:
    """Note what is to be forgotten, and erase it from the journals; returns all that is noted."""
    metadata, _ = registry.stores
    for adapter, numbers in events.items():
        _write(metadata, adapter, numbers, registry.rows.last(adapter))
    noted = notes(registry)
    for note in noted:
        for number in note.events:
            registry.journal.erase(note.adapter, number, number)
    return noted


def notes(registry: Registry) -> list[ErasureNote]:
    """What is being forgotten, or was when the program was stopped."""
    metadata, _ = registry.stores
    return [
        decode(ErasureNote, r.value, f"forgetting in {r.key!r}")
        for r in read_records(metadata, FORGETTING)
    ]


def tainted(registry: Registry, noted: Iterable[ErasureNote]) -> list[Version]:
    """Versions that the events may have had a part in, and all that came from them, parents first."""
    found = {v.ref: v for note in noted for v in _versions(registry) if note.taints(v)}
    rest = [v for v in _versions(registry) if v.ref not in found] if found else []
    while more := [v for v in rest if any(p in found for p in v.parents)]:
        found |= {v.ref: v for v in more}
        rest = [v for v in rest if v.ref not in found]
    return in_order(found.values())


def finish(registry: Registry, noted: Collection[ErasureNote], versions: Collection[Version]) -> None:
    """Remove versions and their weights, the notes, and whatever the store keeps of removed things."""
    digests = registry.rows.remove(versions)
    registry.weights.sweep(digests, registry.rows.digests)
    for adapter in {v.adapter for v in versions}:
        registry.scores.drop(adapter)
        registry.sketches.drop(adapter)
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
    """Checkpoints stand on what was learned before them: such jobs start anew, or never."""
    erased = {(note.adapter, number) for note in noted for number in note.events}
    for job in registry.jobs.all():
        if (job.adapter, job.event) in erased:
            registry.jobs.close(job.id)
        elif job.adapter in adapters or any(job.adapter == note.adapter for note in noted):
            registry.jobs.restart(job.id)


def events_of(registry: Registry, user: str) -> dict[AdapterId, list[int]]:
    """What a user said to any adapter: the numbers of the events."""
    found = {}
    for adapter in registry.adapters():
        numbers = [
            e.seq
            for e in registry.journal.all(adapter.id)
            if isinstance(e.event, FeedbackGiven) and e.event.user == user
        ]
        if numbers:
            found[adapter.id] = numbers
    return found


def _versions(registry: Registry) -> list[Version]:
    return [v for adapter in registry.adapters() for v in registry.rows.of(adapter.id)]


def _write(metadata: MetadataStore, adapter: AdapterId, events: Collection[int], below: int) -> None:
    record = metadata.get(FORGETTING, adapter.name)
    before = decode(ErasureNote, record.value, "a note").events if record else ()
    note = ErasureNote(adapter, tuple(sorted({*before, *events})), below)
    metadata.put(FORGETTING, adapter.name, encode(note), expected=record.revision if record else 0)


def line_of(versions: Iterable[Version], head: VersionRef) -> set[VersionRef]:
    """The head and what it was made from, as far as it is among `versions`."""
    known = {v.ref: v for v in versions}
    found: set[VersionRef] = set()
    waiting = [head]
    while waiting:
        ref = waiting.pop()
        if ref in known and ref not in found:
            found.add(ref)
            waiting += known[ref].parents
    return found
