"""`LazyBackend`: a backend that is opened when its first verb is called."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ouroboros.backend.base import (
    Backend,
    GenerateRequest,
    GenerationChunk,
    Merged,
    MergeJob,
    Score,
    ScoreRequest,
    TrainJob,
    TrainOutcome,
    UpdateJob,
)
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import Row
from ouroboros.domain.generation import Generation
from ouroboros.domain.routing import Vector
from ouroboros.domain.training import OnProgress
from ouroboros.domain.weights import AdapterFiles, ExportForm


class LazyBackend:
    """Work that needs no model never waits for one: the registry can be read without importing torch.

    `open` blocks, so it runs in a thread, once. If it raises, the verb that needed it does, and the next
    one tries again.
    """

    def __init__(self, open: Callable[[], Backend]) -> None:
        self._open = open
        self._opening = asyncio.Lock()
        self._backend: Backend | None = None

    async def base(self) -> BaseModel:
        return await (await self._opened()).base()

    async def initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        return await (await self._opened()).initialize(config, seed)

    async def load(self, files: AdapterFiles) -> str:
        return await (await self._opened()).load(files)

    async def loaded(self, digest: str) -> bool:
        return self._backend is not None and await self._backend.loaded(digest)

    async def check(self, rows: Sequence[Row]) -> None:
        await (await self._opened()).check(rows)

    async def train(
        self,
        job: TrainJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await (await self._opened()).train(job, on_progress, cancel)

    async def update(
        self,
        job: UpdateJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await (await self._opened()).update(job, on_progress, cancel)

    async def generate(
        self, requests: Sequence[GenerateRequest], cancel: CancellationToken | None = None
    ) -> list[Generation]:
        return await (await self._opened()).generate(requests, cancel)

    async def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        async for delta in (await self._opened()).stream(request, cancel):
            yield delta

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        return await (await self._opened()).score(requests, cancel)

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> Merged:
        return await (await self._opened()).merge(job, cancel)

    async def blend(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        return await (await self._opened()).blend(start, end, share)

    async def strength(self, files: AdapterFiles) -> float:
        return await (await self._opened()).strength(files)

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        return await (await self._opened()).validate(files)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        return await (await self._opened()).embed(texts)

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        return await (await self._opened()).export(files, form)

    async def close(self) -> None:
        async with self._opening:
            if self._backend is not None:
                await self._backend.close()

    async def _opened(self) -> Backend:
        async with self._opening:
            if self._backend is None:
                self._backend = await asyncio.to_thread(self._open)
            return self._backend
