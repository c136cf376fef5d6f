"""The registry: the durable record of adapters and their versions.

The order of writes makes it safe against crashes:

1. the weights, as blobs addressed by their digest;
2. the version's row, under a number that is never used again;
3. the head: the adapter's record, which names the version being served.

A crash between two steps leaves a blob or a row that nothing refers to (`fsck` removes it), never a head
whose version is missing. Heads move by compare-and-set only, and a writer that was overtaken is fenced
(see `fencing`). An adapter's record is never removed: a deleted adapter leaves a tombstone, so that the
revisions, epochs and version numbers of a name only grow.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import Unpack

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import AlreadyExists, Conflict, NotFound, StoreError
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, HeadMoved, MergedFrom, Origin, Version
from ouroboros.domain.training import Job, JobState
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.environment import installed_software
from ouroboros.registry.fencing import ADAPTERS, EPOCH, ERASURES, erasure_guard, is_tombstone
from ouroboros.registry.jobs import JobStore
from ouroboros.registry.journal import Journal
from ouroboros.registry.leases import Leases
from ouroboros.registry.paging import PAGE_SIZE, read_entries, read_records
from ouroboros.registry.profiles import ProfileStore
from ouroboros.registry.scores import ProbeScoreStore
from ouroboros.registry.version_draft import (
    AdapterMetadata,
    AppliedFeedback,
    VersionMetadata,
    draft_version,
)
from ouroboros.registry.version_rows import VersionRows
from ouroboros.registry.weight_store import WeightStore
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import Fenced, Guard, Json, MetadataStore, Record
from ouroboros.stores.vectors.base import VectorStore

FORGETTING, REMAKES = "forgetting", "remakes"
"""Erasures under way, and what they left to be made again (`registry/erasure.py`)."""


class Registry:
    """Adapters and versions in a metadata store, with their weights in a blob store.

    `cached` is the same blob store behind a cache; versions are read through it. `vectors` is the vector
    search of the metadata store, if it has one; adapter profiles are stored there then.
    Methods block (see `AsyncRegistry`) and raise `NotFound`, `AlreadyExists`, `Conflict`, `StoreError`.
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
        self.original_weights = WeightStore(metadata, blobs)
        self.weights = WeightStore(metadata, cached or blobs)
        self.version_rows = VersionRows(metadata)
        self.journal = Journal(metadata)
        self.leases = Leases(metadata)
        self.jobs = JobStore(metadata, blobs, self.leases)
        self.scores = ProbeScoreStore(metadata)
        self.vectors = vectors
        self.profiles = ProfileStore(metadata, vectors)
        self.change_count = 0

    def close(self) -> None:
        self._metadata.close()
        self._blobs.close()
        if self.vectors is not None:
            self.vectors.close()

    def require_name_free(self, adapter: AdapterId) -> None:
        """Raise `AlreadyExists` if the name is taken."""
        self._find_tombstone(adapter)

    def create_adapter(
        self,
        adapter: AdapterId,
        config: AdapterConfig,
        base: BaseModel,
        files: AdapterFiles,
        cause: str = "created",
        merged: MergedFrom | None = None,
        **details: Unpack[AdapterMetadata],
    ) -> Adapter:
        """Create an adapter whose first version holds `files`.

        Raises `Fenced` if data of one of the `parents` that it was merged from was erased since they
        were read, or one was deleted.
        """
        seed, verdict = details.get("seed"), details.get("verdict")
        adapter.check()
        tombstone = self._find_tombstone(adapter)
        if tombstone is not None:
            self._purge(adapter, tombstone.value)  # in case the deletion was cut short
        origin = Origin(config, base.fingerprint, base.name, installed_software(), seed)
        first = draft_version(adapter, files, None, cause=cause, merged=merged, verdict=verdict)
        guards = tuple(map(erasure_guard, details.get("parents", ())))
        version = self._store_version(replace(first, origin=origin), files, guards)
        journal = self.journal.last_seq(adapter)
        record = Adapter(
            id=adapter,
            config=config,
            base=base.fingerprint,
            base_name=base.name,
            head=version.number,
            created_at=version.created_at,
            born=journal,
            applied=journal,
            description=details.get("description", ""),
            epoch=tombstone.value.get(EPOCH, 0) if tombstone else 0,
            erasures=tombstone.value.get(ERASURES, 0) if tombstone else 0,
        )
        revision = tombstone.revision if tombstone else 0
        try:
            self._put_adapter(adapter, encode(record), revision, guards)
        except Fenced:
            self._withdraw(version)
            raise
        except Conflict:
            self._withdraw(version)
            self.require_name_free(adapter)
            raise
        return record

    def commit_version(
        self,
        adapter: AdapterId,
        files: AdapterFiles,
        *,
        parent: int,
        **metadata: Unpack[VersionMetadata],
    ) -> Version:
        """Store a new version made from `parent` and make it the head.

        Raises `Conflict` if the head is no longer `parent`: the new version is withdrawn, and its number
        is not used again. Raises `Fenced` if this program lost the adapter's lease, or data was erased,
        since it took it: nothing of the new version is left then.

        With `applied`, the head and the applied journal position move in one write. A
        version whose `verdict` refuses it is stored, and the head stays.
        """
        applied = metadata.get("applied")
        current = self.get_adapter(adapter)
        self.leases.require_unfenced(current)
        _require_unmoved(current, parent, applied)
        version = self.store_unserved(adapter, files, parent=parent, **metadata)
        try:
            self._move_head(adapter, parent, parent if version.refused else version.number, applied)
        except (Conflict, NotFound):
            self._withdraw(version)
            raise
        return version

    def store_unserved(
        self,
        adapter: AdapterId,
        files: AdapterFiles,
        *,
        parent: int | None,
        **metadata: Unpack[VersionMetadata],
    ) -> Version:
        """Store a new version without serving it: the first half of `commit_version`.

        `rollback` can serve it later.
        """
        record = self.get_adapter(adapter)
        origin = Origin(record.config, record.base, record.base_name, installed_software())
        draft = replace(draft_version(adapter, files, parent, **metadata), origin=origin)
        return self._store_version(draft, files, self.leases.guards(adapter))

    def mark_applied(self, adapter: AdapterId, *, since: int, to: int) -> None:
        """Mark the journal events after `since`, up to `to`, as applied without a new version.

        Raises `Conflict` if another writer has applied events in the meantime.
        """
        head = self.get_adapter(adapter).head
        self._move_head(adapter, head, head, AppliedFeedback(since, to))

    def rollback(self, ref: VersionRef, *, replay: bool = False, reason: str = "") -> Adapter:
        """Serve another version, older or newer than the head; a second rollback undoes it.

        Feedback learned since that version stays in the journal. With `replay` it is pending again, to
        be learned on top of the restored head. The move is logged before it is made (see
        `list_head_moves`).
        """
        erasures = self.get_adapter(ref.adapter).erasures
        version = self.get_version(ref)
        while True:
            adapter, revision = self._find_adapter(ref.adapter)
            self.leases.require_unfenced(adapter)
            if adapter.erasures != erasures:
                version = self.get_version(ref)  # it may have been removed
                erasures = adapter.erasures
            if adapter.head == version.number:
                return adapter
            moved = replace(adapter, head=version.number)
            if replay:
                moved = replace(
                    moved, applied=min(adapter.applied, self._last_applied_event(version, adapter))
                )
            event = HeadMoved(adapter.head, version.number, datetime.now(UTC), replay, reason)
            seq = self._metadata.append(_moves_log(ref.adapter), encode(event))
            try:
                self._put_adapter(ref.adapter, encode(moved), revision)
            except Conflict:
                self._metadata.erase(_moves_log(ref.adapter), seq, seq)
                continue
            return moved

    def list_head_moves(self, adapter: AdapterId) -> list[HeadMoved]:
        """Return the rollbacks of an adapter, oldest first.

        If a process was killed during a rollback, its entry is listed although the head did not move.
        """
        self.get_adapter(adapter)
        return [
            decode(HeadMoved, entry.value, f"a rollback of {adapter}")
            for entry in read_entries(self._metadata, _moves_log(adapter))
        ]

    def get_adapter(self, adapter: AdapterId) -> Adapter:
        """Returns the adapter's record; raises `NotFound`."""
        return self._find_adapter(adapter)[0]

    def list_adapters(self, after: str = "", limit: int | None = None) -> list[Adapter]:
        """Return the adapters by name; with `limit`, the next ones whose names sort after `after`."""
        every = read_records(
            self._metadata, ADAPTERS, after=after, page_size=min(limit or PAGE_SIZE, PAGE_SIZE)
        )
        living = (record for record in every if not _is_tombstone(record))
        return list(islice(filter(None, map(_read_adapter, living)), limit))

    def find_damaged_adapters(self) -> list[AdapterId]:
        """Return the names whose record cannot be read: they are left out of `list_adapters`."""
        return [
            AdapterId(record.key)
            for record in read_records(self._metadata, ADAPTERS)
            if not _is_tombstone(record) and _read_adapter(record) is None
        ]

    def delete_adapter(self, adapter: AdapterId) -> None:
        """Delete an adapter, its versions and its journal; weights that other versions share stay."""
        while True:
            record, revision = self._find_adapter(adapter)
            tombstone = {
                "deleted": True,
                "versions": self.version_rows.last_number(adapter),
                "events": self.journal.last_seq(adapter),
                "moves": self._metadata.last(_moves_log(adapter)),
                EPOCH: record.epoch + 1,
                ERASURES: record.erasures + 1,
            }
            with suppress(Conflict):
                self._put_adapter(adapter, tombstone, revision)
                return self._purge(adapter, tombstone)

    def stop_serving(self, adapter: AdapterId, head: int, safe: int) -> None:
        """Serve version `safe` instead of `head`, or nothing if it is 0, and fence all writers.

        All of it is one compare-and-set. Raises `Conflict` if `head` is not the head any more.
        """
        record, revision = self._find_adapter(adapter)
        _require_unmoved(record, head, None)
        moved = replace(record, head=safe, epoch=record.epoch + 1, erasures=record.erasures + 1)
        self._put_adapter(adapter, encode(moved), revision)
        event = HeadMoved(head, safe, datetime.now(UTC), reason="without what was forgotten")
        self._metadata.append(_moves_log(adapter), encode(event))

    def finish_deletions(self) -> None:
        """Remove what deleted adapters owned, where a crash or a late writer left some of it."""
        for record in read_records(self._metadata, ADAPTERS):
            if _is_tombstone(record):
                adapter = AdapterId(record.key)
                if self.journal.read(adapter, limit=1) or self.version_rows.read_all(adapter):
                    ends = {"versions": self.version_rows.last_number(adapter)}
                    ends |= {"events": self.journal.last_seq(adapter)}
                    self._purge(adapter, {**record.value, **ends})

    def remove_unused_files(self) -> None:
        """Remove weights that no version has, checkpoints that no job has, and drafts of killed writers.

        However new they are: a writer that is under way stores its weights once more.
        """
        used = self.version_rows.read_digests
        self.weights.sweep(sorted(set(self.weights.list_digests()) - used()), used)
        self.jobs.remove_unused_checkpoints()
        self._blobs.remove_drafts()

    def get_version(self, ref: VersionRef) -> Version:
        """Return a version; without a number, the head."""
        head = self.get_adapter(ref.adapter).head
        number = head if ref.number is None else ref.number
        if number == 0:
            raise NotFound(
                f"Adapter {ref.adapter.name!r} serves nothing: its versions had learned erased data.",
                hint=f"Rebuild it without that data: ouroboros forget {ref.adapter}",
            )
        version = self.version_rows.get(ref.adapter, number)
        if version is None:
            raise NotFound(
                f"Adapter {ref.adapter.name!r} has no version {number}.",
                hint=f"See them with: ouroboros show {ref.adapter}",
            )
        return version

    def list_versions(self, adapter: AdapterId) -> list[Version]:
        """Return every version of an adapter, oldest first."""
        self.get_adapter(adapter)
        return self.version_rows.read_all(adapter)

    def list_lineage(self, ref: VersionRef, limit: int | None = None) -> list[Version]:
        """Return a version and its chain of parents, newest first; at most `limit` versions."""
        line = [self.get_version(ref)]
        while (parent := line[-1].parent) is not None and len(line) != limit:
            line.append(self.get_version(VersionRef(ref.adapter, parent)))
        return line

    def list_unfinished_jobs(self, adapter: AdapterId | None = None) -> list[Job]:
        """Return the jobs; one whose lease nobody holds any more counts as interrupted."""
        return [
            replace(job, state=JobState.INTERRUPTED)
            if job.state in (JobState.RUNNING, JobState.CANCELLING)
            and not self.leases.is_held(job.adapter)
            else job
            for job in self.jobs.read_all(adapter)
        ]

    def load_files(self, version: Version) -> AdapterFiles:
        """Read a version's weights and verify them against its digest."""
        return self.weights.get(version.digest, str(version.ref))

    def _store_version(
        self, unnumbered: Version, files: AdapterFiles, guards: Sequence[Guard]
    ) -> Version:
        """Steps 1 and 2 of a write: the blobs, then the row under the next number."""
        self.weights.put(files)
        try:
            version = self.version_rows.add(unnumbered, guards)
        except Fenced:
            self.weights.sweep([files.digest], self.version_rows.read_digests)
            raise
        self.weights.secure(files)
        return version

    def _withdraw(self, version: Version) -> None:
        """Remove a version that certainly never became the head, and its weights if they are unused."""
        self.version_rows.withdraw(version)
        self.weights.sweep([version.digest], self.version_rows.read_digests)

    def _purge(self, adapter: AdapterId, tombstone: Json) -> None:
        """Remove what a deleted adapter owned, up to the numbers in its tombstone."""
        digests = self.version_rows.purge(adapter, tombstone["versions"])
        self.journal.drop(adapter, tombstone["events"])
        self.scores.drop(adapter)
        for job in self.jobs.read_all(adapter):
            self.jobs.remove(job.id)
        self.profiles.drop(adapter)
        self._metadata.erase(_moves_log(adapter), 1, tombstone["moves"])
        for collection in (FORGETTING, REMAKES):
            if record := self._metadata.get(collection, adapter.name):
                with suppress(Conflict):
                    self._metadata.delete(collection, adapter.name, expected=record.revision)
        self.weights.sweep(digests, self.version_rows.read_digests)

    def _move_head(
        self, adapter: AdapterId, parent: int, number: int, applied: AppliedFeedback | None
    ) -> None:
        while True:
            record, revision = self._find_adapter(adapter)
            self.leases.require_unfenced(record)
            _require_unmoved(record, parent, applied)
            events_applied = applied.to if applied else record.applied
            moved = encode(replace(record, head=number, applied=events_applied))
            with suppress(Conflict):
                self._put_adapter(adapter, moved, revision)
                return

    def _last_applied_event(self, version: Version, adapter: Adapter) -> int:
        """Return the last journal event whose feedback `version` and its ancestors have learned."""
        applied = (v.events for v in self.list_lineage(version.ref) if v.update is not None)
        return next(applied, None) or adapter.born

    def _put_adapter(
        self, adapter: AdapterId, value: Json, expected: int, guards: Sequence[Guard] = ()
    ) -> None:
        """Write an adapter's record; readers compare `change_count` to see whether to read again."""
        self._metadata.put(ADAPTERS, adapter.name, value, expected=expected, guards=guards)
        self.change_count += 1

    def _find_tombstone(self, adapter: AdapterId) -> Record | None:
        """Return the tombstone of a deleted adapter of this name, or None if the name was never used."""
        record = self._metadata.get(ADAPTERS, adapter.name)
        if record is not None and not _is_tombstone(record):
            raise AlreadyExists(
                f"There is already an adapter {adapter.name!r}.",
                hint="Train that one, or choose another name.",
            )
        return record

    def _find_adapter(self, adapter: AdapterId) -> tuple[Adapter, int]:
        record = self._metadata.get(ADAPTERS, adapter.name)
        if record is None or _is_tombstone(record):
            raise NotFound(
                f"There is no adapter {adapter.name!r}.",
                hint="List them with: ouroboros list",
            )
        return decode(Adapter, record.value, f"adapter {adapter.name!r}"), record.revision


def _read_adapter(record: Record) -> Adapter | None:
    try:
        return decode(Adapter, record.value, f"adapter {record.key!r}")
    except StoreError:
        return None  # damaged: `fsck` names it


def _require_unmoved(adapter: Adapter, parent: int, applied: AppliedFeedback | None) -> None:
    if adapter.head != parent:
        raise Conflict(
            f"The head of {adapter.id} moved on from version {parent} to {adapter.head}.",
            hint="Train again: it starts from the new head.",
        )
    if applied and adapter.applied != applied.since:
        raise Conflict(
            f"Another writer has learned the feedback of {adapter.id} up to event {adapter.applied}.",
            hint="Nothing is lost: try again.",
        )


def _is_tombstone(record: Record) -> bool:
    return is_tombstone(record.value)


def _moves_log(adapter: AdapterId) -> str:
    return f"moves/{adapter}"
