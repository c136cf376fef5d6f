"""Finding the adapter that knows a task: portraits of all of them, kept up with their heads."""

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
from ouroboros.domain.data import Prompt, TrainingExample, messages_of
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
from ouroboros.learning.replay.reservoir import class_of
from ouroboros.learning.routing.centroids import DRAWN, TaskCentroids, compute_centroids, described
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.heads import heads
from ouroboros.registry.registry import Registry
from ouroboros.registry.threads import in_thread

PATIENCE = 50
"""What others changed is looked for again after this many times the last look took."""


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
    """Draws each adapter's portrait once for each of its heads, from what that one was taught."""

    def __init__(
        self, embedder: Embedder, backend: Backend, registry: AsyncRegistry, gate: PromotionGate
    ) -> None:
        self._embedder = embedder
        self._backend = backend
        self._registry = registry
        self._gate = gate
        self._gallery = _gallery(registry.blocking)
        self._strangers: Float[ndarray, "S D"] | None = None
        self._looking = asyncio.Lock()
        self._look_at = 0.0
        self._changes = 0

    async def find(self, prompt: Prompt, k: int) -> list[RouteMatch]:
        """The `k` adapters that are nearest to a prompt, the nearest first."""
        async with self._looking:
            if self._registry.blocking.changes != self._changes or time.perf_counter() >= self._look_at:
                await self._look()
        (vector,) = await self._embed([_text(prompt)])
        return await in_thread(self._gallery.search, vector, k)

    async def find_best(self, prompt: Prompt) -> RouteMatch | None:
        """The nearest adapter, which may not be `sure`; None if there is no adapter at all."""
        matches = await self.find(prompt, 1)
        return matches[0] if matches else None

    async def _look(self) -> None:
        """Take in the heads that moved, and let go of the adapters that went."""
        self._changes = self._registry.blocking.changes
        base = (await self._backend.base()).fingerprint
        began = time.perf_counter()
        now = await in_thread(heads, self._registry.blocking.stores[0], base)
        took = time.perf_counter() - began
        space = f"{await self._embedder.name()} {_short(base)}"
        wanted = {adapter: f"{head} {space} {DRAWN}" for adapter, head in now.items()}
        for adapter in await in_thread(self._gallery.sync, space, wanted):
            with suppress(NotFound):  # deleted since
                await self._add(await self._registry.get(adapter), wanted[adapter])
        self._look_at = time.perf_counter() + PATIENCE * took

    async def _add(self, adapter: Adapter, of: str) -> None:
        portrait = await self._draw(adapter)
        await in_thread(self._gallery.add, adapter.id, of, portrait)
        await in_thread(self._drop_unless_served, adapter)

    def _drop_unless_served(self, drawn: Adapter) -> None:
        """A head that went while its portrait was drawn was perhaps to be forgotten."""
        with suppress(NotFound):
            if self._registry.blocking.get(drawn.id).head == drawn.head:
                return
        self._registry.blocking.sketches.drop(drawn.id)

    async def _draw(self, adapter: Adapter) -> TaskCentroids:
        if self._strangers is None:
            self._strangers = await self._embed([_text(a.input) for a in (*ANCHORS, *DRIFT_ANCHORS)])
        examples = await self._learned(adapter)
        if not examples:
            words = adapter.description or adapter.id.name
            return described(await self._embed([words]), self._strangers, bool(adapter.description))
        classes = [class_of(e.output) for e in examples]
        vectors = await self._embed([_text(e.input) for e in examples])
        return compute_centroids(vectors, classes, self._strangers)

    async def _learned(self, adapter: Adapter) -> list[TrainingExample]:
        """What it was taught itself: what it took over in a merge, its parents are found by."""
        knowledge = await self._gate.knowledge(adapter)
        return [kept.example for kept in knowledge.replay if not kept.place.adapter]

    async def _embed(self, texts: Sequence[str]) -> Float[ndarray, "N D"]:
        return np.array(await self._embedder.embed(texts), dtype=np.float32)


def _gallery(registry: Registry) -> CentroidIndex:
    if registry.vectors is not None:
        return StoredCentroidIndex(registry.vectors)
    return InMemoryCentroidIndex(registry.sketches)


def _text(prompt: Prompt) -> str:
    """What the user says: all turns of it, since a last one alone may be "and tomorrow?"."""
    return "\n".join(m.content for m in messages_of(prompt) if m.role == "user")


def _short(base: Fingerprint) -> str:
    return hashlib.sha256(base.to_text().encode()).hexdigest()[:12]
