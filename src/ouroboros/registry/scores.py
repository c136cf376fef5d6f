"""Stored probe scores of each head, so that the gate evaluates only the candidate."""

from contextlib import suppress

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.probe_scores import ProbeScores
from ouroboros.registry.codec import decode, encode
from ouroboros.stores.metadata.base import MetadataStore

SCORES = "scores"


class ProbeScoreStore:
    """One record per adapter: a cache, so that a lost record or a lost race costs only time."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    def get(self, adapter: AdapterId, digest: str) -> ProbeScores:
        """Return the scores of the version with this digest; empty if another version's are stored."""
        record = self._metadata.get(SCORES, adapter.name)
        scores = decode(ProbeScores, record.value, f"the scores of {adapter}") if record else None
        return scores if scores and scores.digest == digest else ProbeScores(digest)

    def put(self, adapter: AdapterId, scores: ProbeScores) -> None:
        """Replace the adapter's scores."""
        record = self._metadata.get(SCORES, adapter.name)
        with suppress(Conflict):
            revision = record.revision if record else 0
            self._metadata.put(SCORES, adapter.name, encode(scores), expected=revision)

    def drop(self, adapter: AdapterId) -> None:
        record = self._metadata.get(SCORES, adapter.name)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(SCORES, adapter.name, expected=record.revision)
