"""Version rows: one immutable record per version, under a number that is never used again."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from ouroboros.domain.errors import Conflict, StoreError
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
        """Every version of an adapter, oldest first. Rows that cannot be read are left out."""
        return list(filter(None, map(_read_version, self._records(adapter))))

    def find_damaged(self, adapter: AdapterId) -> list[int]:
        """The numbers of the versions whose rows cannot be read."""
        records = self._records(adapter)
        return [_number_of(record) for record in records if _read_version(record) is None]

    def last_number(self, adapter: AdapterId) -> int:
        """Return the highest number ever assigned for this name; 0 if none was."""
        record = self._metadata.get(NUMBERS, adapter.name)
        return self._last_assigned(adapter, record) if record else 0

    def purge(self, adapter: AdapterId, up_to: int) -> set[str]:
        """Remove the rows numbered `up_to` and below; returns the digests that they named."""
        digests = set()
        for record in self._records(adapter):
            if _number_of(record) <= up_to:
                digests |= _digests_of(record)
                with suppress(Conflict):  # another process purges too
                    self._metadata.delete(VERSIONS, record.key, expected=record.revision)
        return digests

    def read_digests(self) -> set[str]:
        """The digests that the rows of all adapters name, also those that cannot be read otherwise."""
        return set().union(*map(_digests_of, read_records(self._metadata, VERSIONS)))

    def _records(self, adapter: AdapterId) -> Iterator[Record]:
        return read_records(self._metadata, VERSIONS, prefix=f"{adapter}@")

    def _next_number(self, adapter: AdapterId) -> int:
        while True:
            record = self._metadata.get(NUMBERS, adapter.name)
            number = self._last_assigned(adapter, record) + 1 if record else 1
            revision = record.revision if record else 0
            with suppress(Conflict):
                self._metadata.put(NUMBERS, adapter.name, {"last": number}, expected=revision)
                return number

    def _last_assigned(self, adapter: AdapterId, counter: Record) -> int:
        """The counter's value; if it was damaged, the highest number that a row has."""
        last = counter.value.get("last")
        return last if type(last) is int else max(map(_number_of, self._records(adapter)), default=0)


def row_key(adapter: AdapterId, number: int) -> str:
    """Rows sort by number; "@" cannot occur in a name."""
    return f"{adapter}@{number:09d}"


def _number_of(record: Record) -> int:
    return int(record.key.rpartition("@")[2])


def _digests_of(record: Record) -> set[str]:
    """The digest that a row names; of a damaged row, whatever may be one."""
    digest = record.value.get("digest")
    return {digest} if isinstance(digest, str) else set(re.findall("[0-9a-f]{64}", str(record.value)))


def _read_version(record: Record) -> Version | None:
    try:
        return _version(record)
    except StoreError:
        return None  # damaged: `fsck` names it


def _version(record: Record) -> Version:
    return decode(Version, record.value, f"version {record.key}")
