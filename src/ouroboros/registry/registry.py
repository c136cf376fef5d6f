"""The registry: adapters, their versions, and the order in which they become visible.

A write goes blob, version row, pointer. A crash in between leaves a blob or a row that nothing points to,
never a pointer to something missing. A pointer moves by compare-and-set only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.errors import AlreadyExists, Conflict, NotFound, StoreError
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Lesson, Version
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.updates import UpdateConfig
from ouroboros.domain.weights import CONFIG_FILE, WEIGHTS_FILE, AdapterFiles
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.journal import Journal
from ouroboros.stores.blobs.base import BlobStore
from ouroboros.stores.metadata.base import MetadataStore, Record

_ADAPTERS, _VERSIONS, _NUMBERS = "adapters", "versions", "numbers"
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Taught:
    """Feedback that a version learned: the journal's events after `since`, up to `to`."""

    since: int
    to: int
    lessons: tuple[Lesson, ...] = ()
    update: UpdateConfig | None = None


class Registry:
    """What is known about adapters, in a metadata store, and their weights, in a blob store.

    Methods block. They raise `NotFound`, `AlreadyExists`, `Conflict` and `StoreError`.
    """

    def __init__(self, metadata: MetadataStore, blobs: BlobStore) -> None:
        self._metadata = metadata
        self._blobs = blobs
        self.journal = Journal(metadata)

    def close(self) -> None:
        self._metadata.close()
        self._blobs.close()

    def require_free(self, adapter: AdapterId) -> None:
        """Raise `AlreadyExists` if the name is taken."""
        if self._metadata.get(_ADAPTERS, adapter.name) is not None:
            raise AlreadyExists(
                f"There is an adapter {adapter.name!r} already.",
                hint="Train that one, or choose another name.",
            )

    def create(
        self,
        adapter: AdapterId,
        config: AdapterConfig,
        base: BaseModel,
        files: AdapterFiles,
        cause: str = "created",
    ) -> Adapter:
        """A new adapter whose first version holds `files`, and why."""
        self.require_free(adapter)
        version = self._store(adapter, files, parent=None, cause=cause)
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
        )
        try:
            self._metadata.put(_ADAPTERS, adapter.name, encode(record), expected=0)
        except Conflict:
            self.require_free(adapter)
            raise
        return record

    def commit(
        self,
        adapter: AdapterId,
        files: AdapterFiles,
        *,
        parent: int,
        cause: str,
        training: TrainingConfig | None = None,
        report: TrainingReport | None = None,
        events: int | None = None,
        taught: Taught | None = None,
    ) -> Version:
        """Store a new version made from `parent` and make it the head, if the head is still `parent`.

        Otherwise `Conflict`, and the new version stays invisible. `events` is the last journal event
        that it learned from. With `taught`, head and applied journal position move in one write.
        """
        self._expect(self._find(adapter)[0], parent, taught)
        version = self._store(
            adapter,
            files,
            parent=parent,
            cause=cause,
            training=training,
            report=report,
            events=events,
            taught=taught,
        )
        self._move(adapter, parent, version.number, taught)
        return version

    def advance(self, adapter: AdapterId, *, since: int, to: int) -> None:
        """Mark journal events after `since`, up to `to`, as applied, though they made no new version.

        `Conflict` if others were applied in the meantime.
        """
        head = self.get(adapter).head
        self._move(adapter, head, head, Taught(since, to))

    def get(self, adapter: AdapterId) -> Adapter:
        return self._find(adapter)[0]

    def adapters(self) -> list[Adapter]:
        """All adapters, by name."""
        return [decode(Adapter, r.value, f"adapter {r.key!r}") for r in self._pages(_ADAPTERS)]

    def delete(self, adapter: AdapterId) -> None:
        """Forget an adapter and its versions. Weights that another version shares are kept."""
        _, revision = self._find(adapter)
        self._metadata.delete(_ADAPTERS, adapter.name, expected=revision)
        rows = list(self._pages(_VERSIONS, prefix=f"{adapter}@"))
        for row in rows:
            self._metadata.delete(_VERSIONS, row.key, expected=row.revision)
        used = {r.value["digest"] for r in self._pages(_VERSIONS)}
        for digest in {r.value["digest"] for r in rows} - used:
            for file in (CONFIG_FILE, WEIGHTS_FILE):
                self._blobs.delete(_blob(digest, file))

    def version(self, ref: VersionRef) -> Version:
        """One version; without a number, the head."""
        number = self.get(ref.adapter).head if ref.number is None else ref.number
        record = self._metadata.get(_VERSIONS, _row(ref.adapter, number))
        if record is None:
            self.get(ref.adapter)
            raise NotFound(
                f"Adapter {ref.adapter.name!r} has no version {number}.",
                hint=f"See them with: ouroboros show {ref.adapter}",
            )
        return decode(Version, record.value, f"version {ref}")

    def versions(self, adapter: AdapterId) -> list[Version]:
        """Every version of an adapter, oldest first."""
        self.get(adapter)
        rows = self._pages(_VERSIONS, prefix=f"{adapter}@")
        return [decode(Version, r.value, f"version {r.key}") for r in rows]

    def files(self, version: Version) -> AdapterFiles:
        """A version's weights, checked against its digest."""
        config, weights = (
            self._blobs.get(_blob(version.digest, f)) for f in (CONFIG_FILE, WEIGHTS_FILE)
        )
        files = AdapterFiles(config, weights)
        if files.digest != version.digest:
            raise StoreError(
                f"The stored weights of {version.ref} are damaged: their digest does not match.",
                hint="Restore them from a backup, or go back to another version.",
            )
        return files

    def _store(
        self,
        adapter: AdapterId,
        files: AdapterFiles,
        *,
        parent: int | None,
        cause: str,
        training: TrainingConfig | None = None,
        report: TrainingReport | None = None,
        events: int | None = None,
        taught: Taught | None = None,
    ) -> Version:
        """Blobs, then the row, under a number nobody else gets."""
        self._blobs.put(_blob(files.digest, WEIGHTS_FILE), files.weights)
        self._blobs.put(_blob(files.digest, CONFIG_FILE), files.config)
        version = Version(
            adapter=adapter,
            number=self._next_number(adapter),
            digest=files.digest,
            size=len(files.weights),
            parent=parent,
            cause=cause,
            created_at=datetime.now(UTC),
            training=training,
            report=report,
            events=events,
            update=taught.update if taught else None,
            lessons=taught.lessons if taught else (),
        )
        self._metadata.put(_VERSIONS, _row(adapter, version.number), encode(version), expected=0)
        return version

    def _next_number(self, adapter: AdapterId) -> int:
        """A number for a new version. The counter outlives the adapter, so none is ever given twice."""
        while True:
            record = self._metadata.get(_NUMBERS, adapter.name)
            number = record.value["last"] + 1 if record else 1
            revision = record.revision if record else 0
            try:
                self._metadata.put(_NUMBERS, adapter.name, {"last": number}, expected=revision)
            except Conflict:
                continue
            return number

    def _move(self, adapter: AdapterId, parent: int, number: int, taught: "Taught | None") -> None:
        while True:
            record, revision = self._find(adapter)
            self._expect(record, parent, taught)
            applied = taught.to if taught else record.applied
            try:
                moved = encode(replace(record, head=number, applied=applied))
                self._metadata.put(_ADAPTERS, adapter.name, moved, expected=revision)
            except Conflict:
                continue
            return

    def _expect(self, adapter: Adapter, parent: int, taught: "Taught | None") -> None:
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

    def _find(self, adapter: AdapterId) -> tuple[Adapter, int]:
        record = self._metadata.get(_ADAPTERS, adapter.name)
        if record is None:
            raise NotFound(
                f"There is no adapter {adapter.name!r}.",
                hint="See those there are with: ouroboros list",
            )
        return decode(Adapter, record.value, f"adapter {adapter.name!r}"), record.revision

    def _pages(self, collection: str, prefix: str = "") -> Iterator[Record]:
        after = ""
        while page := self._metadata.scan(collection, prefix=prefix, after=after, limit=_PAGE):
            yield from page
            after = page[-1].key


def _row(adapter: AdapterId, number: int) -> str:
    """Version rows sort by number; "@" cannot occur in a name."""
    return f"{adapter}@{number:09d}"


def _blob(digest: str, file: str) -> str:
    return f"adapters/{digest}/{file}"
