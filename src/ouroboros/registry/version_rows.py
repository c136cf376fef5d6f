"""Version rows: one immutable record per version, under a number that is never used again."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Version
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.paging import read_records
from ouroboros.stores.metadata.base import Guard, MetadataStore, Record

VERSIONS, NUMBERS = "versions", "numbers"


class VersionRows:
    """The rows of all adapters. The counter of a name outlives its rows and its adapter."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    def add(self, draft: Version, guards: Sequence[Guard] = ()) -> Version:
        """Store `draft` under the next free number; returns it with that number."""
        version = replace(draft, number=self._next_number(draft.adapter))
        key = row_key(version.adapter, version.number)
        self._metadata.put(VERSIONS, key, encode(version), expected=0, guards=guards)
        return version

    def withdraw(self, version: Version) -> None:
        """Remove the row of a version that certainly never became the head."""
        with suppress(Conflict):  # the whole adapter was deleted meanwhile
            self._metadata.delete(VERSIONS, row_key(version.adapter, version.number), expected=1)

    def remove(self, versions: Iterable[Version]) -> set[str]:
        """Remove rows; returns the digests that they named."""
        digests = set()
        for version in versions:
            digests.add(version.digest)
            self.withdraw(version)
        return digests

    def get(self, adapter: AdapterId, number: int) -> Version | None:
        record = self._metadata.get(VERSIONS, row_key(adapter, number))
        return _version(record) if record else None

    def read_all(self, adapter: AdapterId) -> list[Version]:
        """Every version of an adapter, oldest first."""
        return [_version(record) for record in self._records(adapter)]

    def last_number(self, adapter: AdapterId) -> int:
        """Return the highest number ever assigned for this name; 0 if none was."""
        record = self._metadata.get(NUMBERS, adapter.name)
        return record.value["last"] if record else 0

    def purge(self, adapter: AdapterId, up_to: int) -> set[str]:
        """Remove the rows numbered `up_to` and below; returns the digests that they named."""
        digests = set()
        for record in self._records(adapter):
            if record.value["number"] <= up_to:
                digests.add(record.value["digest"])
                with suppress(Conflict):  # another process purges too
                    self._metadata.delete(VERSIONS, record.key, expected=record.revision)
        return digests

    def read_digests(self) -> set[str]:
        """The digests that the rows of all adapters name."""
        return {record.value["digest"] for record in read_records(self._metadata, VERSIONS)}

    def _records(self, adapter: AdapterId) -> Iterator[Record]:
        return read_records(self._metadata, VERSIONS, prefix=f"{adapter}@")

    def _next_number(self, adapter: AdapterId) -> int:
        while True:
            record = self._metadata.get(NUMBERS, adapter.name)
            number = record.value["last"] + 1 if record else 1
            revision = record.revision if record else 0
            with suppress(Conflict):
                self._metadata.put(NUMBERS, adapter.name, {"last": number}, expected=revision)
                return number


def row_key(adapter: AdapterId, number: int) -> str:
    """Rows sort by number; "@" cannot occur in a name."""
    return f"{adapter}@{number:09d}"


def _version(record: Record) -> Version:
    return decode(Version, record.value, f"version {record.key}")
