"""`LazyBackend`: a backend that is opened when its first verb is called."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

from ouroboros.backend.base import (
    Backend,
    GenerateRequest,
    GenerationChunk,
    MergedAdapter,
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
    """Opens the model on first use, so that the registry can be read without importing torch.

    `open` blocks, so it runs in a thread, once. If it raises, the calling verb raises the same error and
    the next verb tries again.
    """

    def __init__(self, open: Callable[[], Backend]) -> None:
        self._open = open
        self._opening = asyncio.Lock()
        self._backend: Backend | None = None

    async def base(self) -> BaseModel:
        return await (await self._open_once()).base()

    async def initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        return await (await self._open_once()).initialize(config, seed)

    async def load(self, files: AdapterFiles) -> str:
        return await (await self._open_once()).load(files)

    async def is_loaded(self, digest: str) -> bool:
        return self._backend is not None and await self._backend.is_loaded(digest)

    async def check_rows(self, rows: Sequence[Row]) -> None:
        await (await self._open_once()).check_rows(rows)

    async def train(
        self,
        job: TrainJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await (await self._open_once()).train(job, on_progress, cancel)

    async def update(
        self,
        job: UpdateJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await (await self._open_once()).update(job, on_progress, cancel)

    async def generate(
        self, requests: Sequence[GenerateRequest], cancel: CancellationToken | None = None
    ) -> list[Generation]:
        return await (await self._open_once()).generate(requests, cancel)

    async def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        async for delta in (await self._open_once()).stream(request, cancel):
            yield delta

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        return await (await self._open_once()).score(requests, cancel)

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> MergedAdapter:
        return await (await self._open_once()).merge(job, cancel)

    async def shrink(
        self, files: AdapterFiles, cancel: CancellationToken | None = None
    ) -> MergedAdapter:
        return await (await self._open_once()).shrink(files, cancel)

    async def interpolate(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        return await (await self._open_once()).interpolate(start, end, share)

    async def measure_strength(self, files: AdapterFiles) -> float:
        return await (await self._open_once()).measure_strength(files)

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        return await (await self._open_once()).validate(files)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        return await (await self._open_once()).embed(texts)

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        return await (await self._open_once()).export(files, form)

    async def close(self) -> None:
        async with self._opening:
            if self._backend is not None:
                await self._backend.close()

    async def _open_once(self) -> Backend:
        async with self._opening:
            if self._backend is None:
                self._backend = await asyncio.to_thread(self._open)
            return self._backend
