"""Portraits of adapters, kept so that a search need not draw them anew."""

from contextlib import suppress

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.routing import AdapterProfile
from ouroboros.registry.codec import decode, encode
from ouroboros.registry.paging import read_records
from ouroboros.stores.metadata.base import MetadataStore
from ouroboros.stores.vectors.base import VectorStore

SKETCHES = "sketches"


class ProfileStore:
    """One record per adapter, drawn from its examples: a cache, and gone when they are forgotten.

    `vectors` is where they are kept besides, or instead, if the store searches them by itself.
    """

    def __init__(self, metadata: MetadataStore, vectors: VectorStore | None = None) -> None:
        self._metadata = metadata
        self._vectors = vectors

    def all(self) -> dict[AdapterId, AdapterProfile]:
        return {
            AdapterId(r.key): decode(AdapterProfile, r.value, f"the sketch of {r.key}")
            for r in read_records(self._metadata, SKETCHES)
        }

    def put(self, adapter: AdapterId, sketch: AdapterProfile) -> None:
        """Keep this instead of what was kept before."""
        record = self._metadata.get(SKETCHES, adapter.name)
        with suppress(Conflict):
            revision = record.revision if record else 0
            self._metadata.put(SKETCHES, adapter.name, encode(sketch), expected=revision)

    def drop(self, adapter: AdapterId) -> None:
        """Call when an adapter goes, or anything that it learned is forgotten."""
        if self._vectors is not None:
            self._vectors.drop(adapter.name)
        record = self._metadata.get(SKETCHES, adapter.name)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(SKETCHES, adapter.name, expected=record.revision)
