"""The journal: what was given to each adapter, durable before it is acknowledged."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ouroboros.domain.events import ExamplesGiven
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.names import AdapterId
from ouroboros.registry.codec import decode, encode
from ouroboros.stores.metadata.base import MetadataStore


@dataclass(frozen=True, slots=True)
class Journalled:
    """An event and its place in the adapter's journal."""

    seq: int
    event: ExamplesGiven


class Journal:
    """One append-only log per adapter."""

    def __init__(self, metadata: MetadataStore) -> None:
        self._metadata = metadata

    def examples(self, adapter: AdapterId, examples: Sequence[TrainingExample]) -> int:
        """Record examples; returns their sequence number once they are durable."""
        event = ExamplesGiven(tuple(examples), datetime.now(UTC))
        return self._metadata.append(_log(adapter), encode(event))

    def read(self, adapter: AdapterId, after: int = 0, limit: int = 1000) -> list[Journalled]:
        """Events with a sequence number above `after`, in order."""
        return [
            Journalled(e.seq, decode(ExamplesGiven, e.value, f"event {e.seq} of {adapter}"))
            for e in self._metadata.read(_log(adapter), after=after, limit=limit)
        ]


def _log(adapter: AdapterId) -> str:
    return f"journal/{adapter}"
