"""Erasing events, and every version that learned from them.

`erase_events` is complete in itself; its order makes it final and resumable:

1. A note with the events' numbers is written. While it exists, the same call resumes.
2. Each head that learned from the events moves back to a version that did not, in one compare-and-set
   with raising the adapter's epoch: what any writer has read until now can no longer be committed. What
   was served is recorded first as a `Remake`: how to make it again, without a word of what it learned.
3. The events are erased from the journal. The epochs are raised once more, for whoever took a lease in
   between, and heads are looked at again.
4. The versions are removed with their weights, caches, jobs and checkpoints; then the store's traces of
   all that; last the note.

Making versions again is separate: each `Remake` stays until the engine has done it, and blocks nothing.
"""

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from ouroboros.domain.errors import Conflict
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.fencing import raise_epoch
from ouroboros.registry.leases import LEASES
from ouroboros.registry.lineage import sort_by_ancestry
from ouroboros.registry.paging import read_records
from ouroboros.registry.registry import FORGETTING, REMAKES, Registry
from ouroboros.stores.metadata.base import MetadataStore

UNBOUNDED = 2**53
"""The bound of a note whose events may still be learned by writers that are under way."""


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


@dataclass(frozen=True, slots=True)
class Remake:
    """Versions of an adapter that learned erased data, and are to be made again without it.

    versions  their rows, parents first, without weights, scores and lessons.
    head      the version that was served; None if another adapter's merge needs the versions.
    safe      the version that is served meanwhile; 0 if none can be.
    reason    the kind of error that stopped the last attempt.
    """

    adapter: AdapterId
    versions: tuple[Version, ...]
    head: int | None
    safe: int
    reason: str = ""

    @property
    def sources(self) -> set[AdapterId]:
        """The other adapters whose versions these were merged from."""
        parents = {parent.adapter for version in self.versions for parent in version.parents}
        return parents - {self.adapter}


def erase_events(registry: Registry, events: Mapping[AdapterId, Collection[int]]) -> "ErasedData":
    """Erase the events, and all that learned from them; resumes earlier erasures too."""
    metadata, _ = registry.stores
    # 1. What is to be erased.
    for adapter, numbers in events.items():
        _note_events(metadata, adapter, numbers)
    notes = read_notes(registry)
    if not notes:
        return ErasedData((), ())
    # 2. The end of serving.
    _retreat(registry, notes)
    # 3. The end of reading, and of whatever was under way.
    for note in notes:
        for number in note.events:
            registry.journal.erase(note.adapter, number, number)
    affected = find_affected_versions(registry, notes)
    for adapter in {note.adapter for note in notes} | {version.adapter for version in affected}:
        raise_epoch(metadata, adapter, erasure=True)
        _end_lease(metadata, adapter)
    registry.change_count += 1
    _retreat(registry, notes)
    notes = [_bound_note(metadata, note, registry) for note in notes]
    # 4. Removal.
    affected = find_affected_versions(registry, notes)
    _remove_versions(registry, notes, affected)
    registry.finish_deletions()
    registry.remove_unused_files()
    metadata.scrub()
    for note in notes:
        _remove_record(metadata, FORGETTING, note.adapter)
    return ErasedData(tuple(notes), tuple(affected))


@dataclass(frozen=True, slots=True)
class ErasedData:
    """What `erase_events` erased: events, in its notes, and the versions that may have learned them."""

    notes: tuple[ErasureNote, ...]
    versions: tuple[Version, ...]


def fence_submissions(registry: Registry) -> None:
    """Refuse what is being submitted to any adapter: it may be what is about to be searched for."""
    for adapter in registry.list_adapters():
        raise_epoch(registry.stores[0], adapter.id, erasure=True)


def read_notes(registry: Registry) -> list[ErasureNote]:
    """Return the notes of erasures that are under way or were interrupted."""
    metadata, _ = registry.stores
    return [
        decode(ErasureNote, r.value, f"forgetting in {r.key!r}")
        for r in read_records(metadata, FORGETTING)
    ]


def read_remakes(registry: Registry) -> list[Remake]:
    """Return what waits to be made again."""
    metadata, _ = registry.stores
    return [decode(Remake, r.value, f"a remake of {r.key!r}") for r in read_records(metadata, REMAKES)]


def find_affected_versions(registry: Registry, notes: Iterable[ErasureNote]) -> list[Version]:
    """Return the versions that may have learned the events, and their descendants, parents first."""
    versions = _all_versions(registry)
    affected = {v.ref: v for note in notes for v in versions if note.affects(v)}
    remaining = [v for v in versions if v.ref not in affected] if affected else []
    while descendants := [v for v in remaining if any(p in affected for p in v.parents)]:
        affected |= {v.ref: v for v in descendants}
        remaining = [v for v in remaining if v.ref not in affected]
    return sort_by_ancestry(affected.values())


def find_user_events(registry: Registry, user: str) -> dict[AdapterId, list[int]]:
    """Return the numbers of the events with a user's judgements, by adapter."""
    events = {}
    for adapter in registry.list_adapters():
        numbers = [
            e.seq
            for e in registry.journal.read_all(adapter.id)
            if isinstance(e.event, FeedbackGiven) and e.event.user == user
        ]
        numbers += registry.journal.find_damaged_events_of(adapter.id, user)
        if numbers:
            events[adapter.id] = numbers
    return events


def note_failure(registry: Registry, remake: Remake, reason: str) -> None:
    """Record why a remake could not be done; it stays to be done."""
    metadata, _ = registry.stores
    record = metadata.get(REMAKES, remake.adapter.name)
    if record is not None:
        with suppress(Conflict):
            changed = {**record.value, "reason": reason}
            metadata.put(REMAKES, remake.adapter.name, changed, expected=record.revision)


def finish_remake(registry: Registry, remake: Remake, places: Mapping[int, int | None]) -> None:
    """Serve what was made in the place of the old head, and tell the merges that wait for it.

    `places` maps each of the remake's versions to the one in its place; None if nothing can be.
    """
    head = places.get(remake.head) if remake.head is not None else None
    if head is not None:
        reason = "made again without what was forgotten"
        registry.rollback(VersionRef(remake.adapter, head), reason=reason)
    metadata, _ = registry.stores
    for record in list(read_records(metadata, REMAKES)):
        waiting = decode(Remake, record.value, f"a remake of {record.key!r}")
        if remake.adapter in waiting.sources:
            moved = tuple(_replace_parents(v, remake.adapter, places) for v in waiting.versions)
            changed = encode(replace(waiting, versions=moved))
            metadata.put(REMAKES, record.key, changed, expected=record.revision)
    _remove_record(metadata, REMAKES, remake.adapter)


def _retreat(registry: Registry, notes: Collection[ErasureNote]) -> None:
    """Move every head off the affected versions, until none is served."""
    while True:
        affected = find_affected_versions(registry, notes)
        refs = {version.ref for version in affected}
        adapters = [registry.get_adapter(a) for a in sorted({version.adapter for version in affected})]
        served = set().union(
            *(collect_ancestor_refs(affected, VersionRef(a.id, a.head)) for a in adapters)
        )
        moving = [a for a in adapters if VersionRef(a.id, a.head) in refs]
        if not moving:
            return
        safe = {a.id: _choose_safe_version(registry, a, refs) for a in moving}
        for adapter in adapters:
            versions = [v for v in affected if v.adapter == adapter.id and v.ref in served]
            head = adapter.head if adapter.id in safe else None
            _record_remake(registry, adapter.id, versions, head, safe.get(adapter.id, 0))
        for adapter in moving:
            with suppress(Conflict):  # it moved meanwhile: look again
                registry.stop_serving(adapter.id, adapter.head, safe[adapter.id])


def _choose_safe_version(registry: Registry, adapter: Adapter, affected: Collection[VersionRef]) -> int:
    """The nearest ancestor of the head that is not affected, or else the newest version; 0 for none."""
    versions = {v.number: v for v in registry.version_rows.read_all(adapter.id)}
    number: int | None = adapter.head
    while number in versions and versions[number].ref in affected:
        number = versions[number].parent
    if number is not None and number in versions:
        return number
    return max((n for n, v in versions.items() if v.ref not in affected and not v.refused), default=0)


def _record_remake(
    registry: Registry, adapter: AdapterId, versions: Collection[Version], head: int | None, safe: int
) -> None:
    """Record how to make `versions` again, after those that already wait for it."""
    if not versions:
        return
    metadata, _ = registry.stores
    record = metadata.get(REMAKES, adapter.name)
    rows = tuple(map(_strip_version, versions))
    if record is not None:
        waiting = decode(Remake, record.value, f"a remake of {adapter.name!r}")
        known = {v.number for v in waiting.versions}
        # What was learned on the interim head comes after what still waits to be learned again.
        rows = tuple(
            replace(v, parent=waiting.head) if v.parent == waiting.safe and waiting.head else v
            for v in rows
            if v.number not in known
        )
        rows = tuple(sort_by_ancestry([*waiting.versions, *rows]))
        if head in (None, waiting.safe):
            head = waiting.head  # only the interim head had to go back
    remake = Remake(adapter, rows, head, safe)
    metadata.put(REMAKES, adapter.name, encode(remake), expected=record.revision if record else 0)


def _strip_version(version: Version) -> Version:
    """How a version was made, without anything that was computed from what it learned."""
    since = version.since
    if since is None and version.lessons:
        since = version.lessons[0].event - 1
    return replace(version, digest="", size=0, report=None, lessons=(), verdict=None, since=since)


def _replace_parents(version: Version, adapter: AdapterId, places: Mapping[int, int | None]) -> Version:
    if version.merged is None:
        return version
    parents = tuple(
        VersionRef(adapter, place)
        if parent.adapter == adapter and (place := places.get(parent.number or 0))
        else parent
        for parent in version.merged.versions
    )
    return replace(version, merged=replace(version.merged, versions=parents))


def _remove_versions(
    registry: Registry, notes: Collection[ErasureNote], versions: Collection[Version]
) -> None:
    """Remove versions with their weights, and the caches and jobs of their adapters."""
    digests = registry.version_rows.remove(versions)
    registry.weights.sweep(digests, registry.version_rows.read_digests)
    adapters = {v.adapter for v in versions} | {note.adapter for note in notes}
    for adapter in adapters:
        registry.scores.drop(adapter)
        registry.profiles.drop(adapter)
    # Jobs on erased events go, and others begin anew: checkpoints hold what was learned before.
    erased = {(note.adapter, number) for note in notes for number in note.events}
    for job in registry.jobs.read_all():
        if (job.adapter, job.event) in erased:
            registry.jobs.remove(job.id)
        elif job.adapter in adapters:
            registry.jobs.restart(job.id)


def _all_versions(registry: Registry) -> list[Version]:
    return [
        v for adapter in registry.list_adapters() for v in registry.version_rows.read_all(adapter.id)
    ]


def _note_events(metadata: MetadataStore, adapter: AdapterId, events: Collection[int]) -> None:
    while True:
        record = metadata.get(FORGETTING, adapter.name)
        before = decode(ErasureNote, record.value, "a note").events if record else ()
        note = ErasureNote(adapter, tuple(sorted({*before, *events})), UNBOUNDED)
        with suppress(Conflict):  # another program erases as well
            expected = record.revision if record else 0
            metadata.put(FORGETTING, adapter.name, encode(note), expected=expected)
            return


def _bound_note(metadata: MetadataStore, note: ErasureNote, registry: Registry) -> ErasureNote:
    """Note that no version after the last one can have learned the events: they cannot be read now."""
    bounded = replace(note, below=min(note.below, registry.version_rows.last_number(note.adapter)))
    record = metadata.get(FORGETTING, note.adapter.name)
    if record is not None and record.value["events"] == list(note.events):
        with suppress(Conflict):
            metadata.put(FORGETTING, note.adapter.name, encode(bounded), expected=record.revision)
    return bounded


def _end_lease(metadata: MetadataStore, adapter: AdapterId) -> None:
    """End the lease of whoever holds it: its writes are refused, so nobody needs to wait for it."""
    _remove_record(metadata, LEASES, adapter)


def _remove_record(metadata: MetadataStore, collection: str, adapter: AdapterId) -> None:
    record = metadata.get(collection, adapter.name)
    if record is not None:
        with suppress(Conflict):
            metadata.delete(collection, adapter.name, expected=record.revision)


def collect_ancestor_refs(versions: Iterable[Version], head: VersionRef) -> set[VersionRef]:
    """Return the head and its ancestors, as far as they are among `versions`."""
    known = {v.ref: v for v in versions}
    collected: set[VersionRef] = set()
    waiting = [head]
    while waiting:
        ref = waiting.pop()
        if ref in known and ref not in collected:
            collected.add(ref)
            waiting += known[ref].parents
    return collected
