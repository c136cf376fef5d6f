"""`AdapterRouter`: finds the adapter that knows a task, by centroids of what each head has learned."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ouroboros.backend.base import Backend, Embedder
from ouroboros.domain.base_model import Fingerprint
from ouroboros.domain.data import Prompt, TrainingExample, to_messages
from ouroboros.domain.errors import NotFound
from ouroboros.domain.records import Adapter
from ouroboros.domain.routing import RouteMatch, Vector
from ouroboros.engine.gate import PromotionGate
from ouroboros.engine.routing.index_store import (
    CentroidIndex,
    InMemoryCentroidIndex,
    StoredCentroidIndex,
)
from ouroboros.learning.replay.anchors import ANCHORS, DRIFT_ANCHORS
from ouroboros.learning.replay.reservoir import classify_output
from ouroboros.learning.routing.centroids import (
    CENTROIDS_VERSION,
    TaskCentroids,
    compute_centroids,
    compute_description_centroid,
)
from ouroboros.registry.adapter_index import read_heads
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.registry import Registry
from ouroboros.registry.threads import in_thread

REFRESH_PATIENCE = 50
"""Changes by other programs are read again after this many times the seconds the last read took."""


class BaseEmbedder:
    """The base model itself."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def name(self) -> str:
        fingerprint = (await self._backend.base()).fingerprint
        return f"base-{fingerprint.tokenizer[:12]}-{fingerprint.weights[:12]}"

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        return await self._backend.embed(texts)


class AdapterRouter:
    """Computes centroids once for each head of an adapter, and searches the nearest."""

    def __init__(
        self, embedder: Embedder, backend: Backend, registry: AsyncRegistry, gate: PromotionGate
    ) -> None:
        self._embedder = embedder
        self._backend = backend
        self._registry = registry
        self._gate = gate
        self._index = _open_index(registry.blocking)
        self._background: Float[ndarray, "S D"] | None = None
        self._refresh_lock = asyncio.Lock()
        self._refresh_at = 0.0
        self._seen_changes = 0

    async def find(self, prompt: Prompt, k: int) -> list[RouteMatch]:
        """The `k` adapters that are nearest to a prompt, the nearest first."""
        async with self._refresh_lock:
            if (
                self._registry.blocking.change_count != self._seen_changes
                or time.perf_counter() >= self._refresh_at
            ):
                await self._refresh()
        (vector,) = await self._embed([_user_text(prompt)])
        return await in_thread(self._index.search, vector, k)

    async def find_best(self, prompt: Prompt) -> RouteMatch | None:
        """The nearest adapter, which may not be `sure`; None if there is no adapter at all."""
        matches = await self.find(prompt, 1)
        return matches[0] if matches else None

    async def _refresh(self) -> None:
        """Update the index: heads that moved are computed anew, deleted adapters are dropped."""
        self._seen_changes = self._registry.blocking.change_count
        base = (await self._backend.base()).fingerprint
        began = time.perf_counter()
        head_numbers = await in_thread(read_heads, self._registry.blocking.stores[0], base)
        seconds = time.perf_counter() - began
        space = f"{await self._embedder.name()} {_hash_fingerprint(base)}"
        wanted = {
            adapter: f"{head} {space} {CENTROIDS_VERSION}" for adapter, head in head_numbers.items()
        }
        for adapter in await in_thread(self._index.sync, space, wanted):
            with suppress(NotFound):  # deleted in the meantime
                await self._add_profile(await self._registry.get_adapter(adapter), wanted[adapter])
        self._refresh_at = time.perf_counter() + REFRESH_PATIENCE * seconds

    async def _add_profile(self, adapter: Adapter, of: str) -> None:
        centroids = await self._compute_centroids(adapter)
        await in_thread(self._index.add, adapter.id, of, centroids)
        await in_thread(self._drop_unless_served, adapter)

    def _drop_unless_served(self, adapter: Adapter) -> None:
        """Drop centroids whose head moved meanwhile: what it knew may have been erased."""
        with suppress(NotFound):
            if self._registry.blocking.get_adapter(adapter.id).head == adapter.head:
                return
        self._registry.blocking.profiles.drop(adapter.id)

    async def _compute_centroids(self, adapter: Adapter) -> TaskCentroids:
        if self._background is None:
            self._background = await self._embed(
                [_user_text(a.input) for a in (*ANCHORS, *DRIFT_ANCHORS)]
            )
        examples = await self._read_examples(adapter)
        if not examples:
            words = adapter.description or adapter.id.name
            return compute_description_centroid(
                await self._embed([words]), self._background, bool(adapter.description)
            )
        classes = [classify_output(e.output) for e in examples]
        vectors = await self._embed([_user_text(e.input) for e in examples])
        return compute_centroids(vectors, classes, self._background)

    async def _read_examples(self, adapter: Adapter) -> list[TrainingExample]:
        """The adapter's own examples: those of a merge's parents lead to the parents."""
        knowledge = await self._gate.knowledge(adapter)
        return [stored.example for stored in knowledge.replay if not stored.ref.adapter]

    async def _embed(self, texts: Sequence[str]) -> Float[ndarray, "N D"]:
        return np.array(await self._embedder.embed(texts), dtype=np.float32)


def _open_index(registry: Registry) -> CentroidIndex:
    if registry.vectors is not None:
        return StoredCentroidIndex(registry.vectors)
    return InMemoryCentroidIndex(registry.profiles)


def _user_text(prompt: Prompt) -> str:
    """All that the user says: the last turn alone may be "and tomorrow?"."""
    return "\n".join(m.content for m in to_messages(prompt) if m.role == "user")


def _hash_fingerprint(base: Fingerprint) -> str:
    return hashlib.sha256(base.to_text().encode()).hexdigest()[:12]
