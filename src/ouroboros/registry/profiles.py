"""Stored profiles of adapters, so that routing need not embed their examples again."""

from contextlib import suppress

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.routing import AdapterProfile
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.paging import read_records
from ouroboros.stores.metadata.base import MetadataStore
from ouroboros.stores.vectors.base import VectorStore

PROFILES = "sketches"


class ProfileStore:
    """One record per adapter, computed from its examples: a cache, dropped when they are erased.

    `vectors` is a vector search that holds the profiles as well or instead, if the store has one.
    """

    def __init__(self, metadata: MetadataStore, vectors: VectorStore | None = None) -> None:
        self._metadata = metadata
        self._vectors = vectors

    def read_all(self) -> dict[AdapterId, AdapterProfile]:
        """Returns every profile by its adapter."""
        return {
            AdapterId(r.key): decode(AdapterProfile, r.value, f"the profile of {r.key}")
            for r in read_records(self._metadata, PROFILES)
        }

    def put(self, adapter: AdapterId, profile: AdapterProfile) -> None:
        """Replace the adapter's profile."""
        record = self._metadata.get(PROFILES, adapter.name)
        with suppress(Conflict):
            revision = record.revision if record else 0
            self._metadata.put(PROFILES, adapter.name, encode(profile), expected=revision)

    def drop(self, adapter: AdapterId) -> None:
        """Remove the profile: call when the adapter is deleted or any of its examples erased."""
        if self._vectors is not None:
            self._vectors.drop(adapter.name)
        record = self._metadata.get(PROFILES, adapter.name)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(PROFILES, adapter.name, expected=record.revision)
