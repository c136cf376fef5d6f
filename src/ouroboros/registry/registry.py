"""The registry: adapters, their versions, and the order in which they become visible.

A write goes blob, version row, pointer. A crash in between leaves a blob or a row that nothing points
to, never a pointer to something missing. A pointer moves by compare-and-set only, and is never removed:
a deleted adapter leaves a mark in its place, so that a name's revisions and numbers only grow.
"""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Unpack

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import AlreadyExists, Conflict, NotFound
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, HeadMoved, MergedFrom, Origin, Version
from ouroboros.domain.training import Job, JobState
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.environment import installed_software
from ouroboros.registry.jobs import Jobs
from ouroboros.registry.journal import Journal
from ouroboros.registry.leases import Leases
from ouroboros.registry.paging import PAGE, read_entries, read_records
from ouroboros.registry.profiles import ProfileStore
from ouroboros.registry.scores import ProbeScoreStore
from ouroboros.registry.version_draft import AppliedFeedback, VersionMetadata, draft
from ouroboros.registry.version_rows import VersionRows
from ouroboros.registry.weight_store import WeightStore
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import Json, MetadataStore, Record
from ouroboros.stores.vectors.base import VectorStore

ADAPTERS = "adapters"


class Registry:
    """What is known about adapters, in a metadata store, and their weights, in a blob store.

    `cached` is the same blob store by a way that may answer from a copy: versions are read through it.
    `vectors` is where the metadata store searches vectors, if it does: portraits are kept there then.
    Methods block. They raise `NotFound`, `AlreadyExists`, `Conflict` and `StoreError`.
    """

    def __init__(
        self,
        metadata: MetadataStore,
        blobs: BlobStore,
        cached: BlobStore | None = None,
        vectors: VectorStore | None = None,
    ) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self.stores = (metadata, blobs)
        self.originals = WeightStore(metadata, blobs)
        self.weights = WeightStore(metadata, cached or blobs)
        self.rows = VersionRows(metadata)
        self.journal = Journal(metadata)
        self.jobs = Jobs(metadata, blobs)
        self.leases = Leases(metadata)
        self.scores = ProbeScoreStore(metadata)
        self.vectors = vectors
        self.sketches = ProfileStore(metadata, vectors)
        self.changes = 0

    def close(self) -> None:
        self._metadata.close()
        self._blobs.close()
        if self.vectors is not None:
            self.vectors.close()

    def require_free(self, adapter: AdapterId) -> None:
        """Raise `AlreadyExists` if the name is taken."""
        self._free_place(adapter)

    def create(
        self,
        adapter: AdapterId,
        config: AdapterConfig,
        base: BaseModel,
        files: AdapterFiles,
        cause: str = "created",
        merged: MergedFrom | None = None,
        seed: int | None = None,
        description: str = "",
        verdict: Verdict | None = None,
    ) -> Adapter:
        """A new adapter whose first version holds `files`, and why; drawn from `seed`, if any."""
        adapter.check()
        grave = self._free_place(adapter)
        if grave is not None:
            self._purge(adapter, grave.value)  # in case the deletion was cut short
        origin = Origin(config, base.fingerprint, base.name, installed_software(), seed)
        first = draft(adapter, files, None, cause=cause, merged=merged, verdict=verdict)
        version = self._store(replace(first, origin=origin), files)
        journal = self.journal.end(adapter)
        record = Adapter(
            id=adapter,
            config=config,
            base=base.fingerprint,
            base_name=base.name,
            head=version.number,
            created_at=version.created_at,
            born=journal,
            applied=journal,
            description=description,
        )
        revision = grave.revision if grave else 0
        try:
            self._point(adapter, encode(record), revision)
        except Conflict:
            self.rows.withdraw(version)
            self.require_free(adapter)
            raise
        return record

    def commit(
        self,
        adapter: AdapterId,
        files: AdapterFiles,
        *,
        parent: int,
        **made: Unpack[VersionMetadata],
    ) -> Version:
        """Store a new version made from `parent` and make it the head, if the head is still `parent`.

        Otherwise `Conflict`, and the new version is withdrawn; its number is not used again. With
        `taught`, head and applied journal position move in one write. A version whose `verdict` refuses
        it is stored, and the head stays.
        """
        taught = made.get("taught")
        _expect(self.get(adapter), parent, taught)
        version = self.store_unserved(adapter, files, parent=parent, **made)
        try:
            self._move(adapter, parent, parent if version.refused else version.number, taught)
        except (Conflict, NotFound):
            self.rows.withdraw(version)
            raise
        return version

    def store_unserved(
        self,
        adapter: AdapterId,
        files: AdapterFiles,
        *,
        parent: int | None,
        **made: Unpack[VersionMetadata],
    ) -> Version:
        """Store a new version and serve it not: the first half of `commit`. `rollback` can serve it."""
        record = self.get(adapter)
        origin = Origin(record.config, record.base, record.base_name, installed_software())
        return self._store(replace(draft(adapter, files, parent, **made), origin=origin), files)

    def mark_applied(self, adapter: AdapterId, *, since: int, to: int) -> None:
        """Mark journal events after `since`, up to `to`, as applied, though they made no new version.

        `Conflict` if others were applied in the meantime.
        """
        head = self.get(adapter).head
        self._move(adapter, head, head, AppliedFeedback(since, to))

    def rollback(self, ref: VersionRef, *, replay: bool = False, reason: str = "") -> Adapter:
        """Serve a version again, older or newer than the head; the way back is the same.

        Feedback learned since then stays in the journal. With `replay` it is pending again, to be
        learned onto the restored head. The move is recorded before it is made (see `head_moves`).
        """
        version = self.version(ref)
        while True:
            adapter, revision = self._find(ref.adapter)
            if adapter.head == version.number:
                return adapter
            moved = replace(adapter, head=version.number)
            if replay:
                moved = replace(moved, applied=min(adapter.applied, self._learned_by(version, adapter)))
            event = HeadMoved(adapter.head, version.number, datetime.now(UTC), replay, reason)
            seq = self._metadata.append(_moves(ref.adapter), encode(event))
            try:
                self._point(ref.adapter, encode(moved), revision)
            except Conflict:
                self._metadata.erase(_moves(ref.adapter), seq, seq)
                continue
            return moved

    def head_moves(self, adapter: AdapterId) -> list[HeadMoved]:
        """The rollbacks of an adapter, oldest first.

        One whose process was killed may be among them and not have happened.
        """
        self.get(adapter)
        return [
            decode(HeadMoved, entry.value, f"a rollback of {adapter}")
            for entry in read_entries(self._metadata, _moves(adapter))
        ]

    def get(self, adapter: AdapterId) -> Adapter:
        return self._find(adapter)[0]

    def adapters(self, after: str = "", limit: int | None = None) -> list[Adapter]:
        """All adapters, by name; or the next `limit` whose names sort behind `after`."""
        every = read_records(self._metadata, ADAPTERS, after=after, page=min(limit or PAGE, PAGE))
        there = (record for record in every if not _deleted(record))
        return [
            decode(Adapter, record.value, f"adapter {record.key!r}") for record in islice(there, limit)
        ]

    def delete(self, adapter: AdapterId) -> None:
        """Forget an adapter, its versions and its journal; weights that others share are kept."""
        while True:
            _, revision = self._find(adapter)
            grave = {
                "deleted": True,
                "versions": self.rows.last(adapter),
                "events": self.journal.end(adapter),
                "moves": self._metadata.last(_moves(adapter)),
            }
            with suppress(Conflict):
                self._point(adapter, grave, revision)
                return self._purge(adapter, grave)

    def version(self, ref: VersionRef) -> Version:
        """One version; without a number, the head."""
        head = self.get(ref.adapter).head
        number = head if ref.number is None else ref.number
        version = self.rows.get(ref.adapter, number)
        if version is None:
            raise NotFound(
                f"Adapter {ref.adapter.name!r} has no version {number}.",
                hint=f"See them with: ouroboros show {ref.adapter}",
            )
        return version

    def versions(self, adapter: AdapterId) -> list[Version]:
        """Every version of an adapter, oldest first."""
        self.get(adapter)
        return self.rows.of(adapter)

    def lineage(self, ref: VersionRef, limit: int | None = None) -> list[Version]:
        """A version and what it was made from, parent by parent, back to the first or up to `limit`."""
        line = [self.version(ref)]
        while (parent := line[-1].parent) is not None and len(line) != limit:
            line.append(self.version(VersionRef(ref.adapter, parent)))
        return line

    def unfinished(self, adapter: AdapterId | None = None) -> list[Job]:
        """Trainings that are no version yet; those whose program has died are interrupted."""
        lost = JobState.INTERRUPTED
        return [
            replace(job, state=lost)
            if job.state in (JobState.RUNNING, JobState.CANCELLING)
            and not self.leases.is_held(job.adapter)
            else job
            for job in self.jobs.all(adapter)
        ]

    def files(self, version: Version) -> AdapterFiles:
        """A version's weights, checked against its digest."""
        return self.weights.get(version.digest, str(version.ref))

    def _store(self, unnumbered: Version, files: AdapterFiles) -> Version:
        """Blobs, then the row, under a number nobody else gets."""
        self.weights.put(files)
        version = self.rows.add(unnumbered)
        self.weights.secure(files)
        return version

    def _purge(self, adapter: AdapterId, grave: Json) -> None:
        """Remove what a deleted adapter left; all of it is numbered no higher than its grave says."""
        digests = self.rows.purge(adapter, grave["versions"])
        self.journal.erase(adapter, 1, grave["events"])
        self.scores.drop(adapter)
        for job in self.jobs.all(adapter):
            self.jobs.close(job.id)
        self.sketches.drop(adapter)
        self._metadata.erase(_moves(adapter), 1, grave["moves"])
        self.weights.sweep(digests, self.rows.digests)

    def _move(
        self, adapter: AdapterId, parent: int, number: int, taught: AppliedFeedback | None
    ) -> None:
        while True:
            record, revision = self._find(adapter)
            _expect(record, parent, taught)
            applied = taught.to if taught else record.applied
            moved = encode(replace(record, head=number, applied=applied))
            with suppress(Conflict):
                self._point(adapter, moved, revision)
                return

    def _learned_by(self, version: Version, adapter: Adapter) -> int:
        """Up to where in the journal feedback had been learned when `version` was made."""
        taught = (v.events for v in self.lineage(version.ref) if v.update is not None)
        return next(taught, None) or adapter.born

    def _point(self, adapter: AdapterId, value: Json, expected: int) -> None:
        """Write an adapter's record. `changes` counts, so that a reader can tell that it must look."""
        self._metadata.put(ADAPTERS, adapter.name, value, expected=expected)
        self.changes += 1

    def _free_place(self, adapter: AdapterId) -> Record | None:
        """Where a new adapter of this name goes: None, or the grave of a former one."""
        record = self._metadata.get(ADAPTERS, adapter.name)
        if record is not None and not _deleted(record):
            raise AlreadyExists(
                f"There is an adapter {adapter.name!r} already.",
                hint="Train that one, or choose another name.",
            )
        return record

    def _find(self, adapter: AdapterId) -> tuple[Adapter, int]:
        record = self._metadata.get(ADAPTERS, adapter.name)
        if record is None or _deleted(record):
            raise NotFound(
                f"There is no adapter {adapter.name!r}.",
                hint="See those there are with: ouroboros list",
            )
        return decode(Adapter, record.value, f"adapter {adapter.name!r}"), record.revision


def _expect(adapter: Adapter, parent: int, taught: AppliedFeedback | None) -> None:
    if adapter.head != parent:
        raise Conflict(
            f"{adapter.id} moved on to version {adapter.head} while a successor of {parent} was made.",
            hint="Train again: it starts from the new head.",
        )
    if taught and adapter.applied != taught.since:
        raise Conflict(
            f"{adapter.id} has learned its feedback up to event {adapter.applied} in the meantime.",
            hint="Nothing is lost: ask again.",
        )


def _deleted(record: Record) -> bool:
    return "deleted" in record.value


def _moves(adapter: AdapterId) -> str:
    return f"moves/{adapter}"
