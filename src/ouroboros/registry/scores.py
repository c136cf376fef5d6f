"""How an adapter's head does on its probes, kept so that judging its successor asks only that one."""

from contextlib import suppress

from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId
from ouroboros.domain.probe_scores import ProbeScores
from ouroboros.registry.codec import decode, encode
from ouroboros.stores.metadata.base import MetadataStore

SCORES = "scores"


class ProbeScoreStore:
    """One record per adapter: a cache, so that losing it, or a race for it, costs time only."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    def get(self, adapter: AdapterId, digest: str) -> ProbeScores:
        """What is known of the version with this digest; nothing, if another one was kept."""
        record = self._metadata.get(SCORES, adapter.name)
        found = decode(ProbeScores, record.value, f"the scores of {adapter}") if record else None
        return found if found and found.digest == digest else ProbeScores(digest)

    def put(self, adapter: AdapterId, standing: ProbeScores) -> None:
        """Keep this instead of what was kept before."""
        record = self._metadata.get(SCORES, adapter.name)
        with suppress(Conflict):
            revision = record.revision if record else 0
            self._metadata.put(SCORES, adapter.name, encode(standing), expected=revision)

    def drop(self, adapter: AdapterId) -> None:
        record = self._metadata.get(SCORES, adapter.name)
        if record is not None:
            with suppress(Conflict):
                self._metadata.delete(SCORES, adapter.name, expected=record.revision)
