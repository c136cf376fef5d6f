"""`LocalBackend`: the Backend protocol on PyTorch in this process."""

import asyncio
import gc
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from threading import Lock
from typing import Any, TypeVar

import torch

from ouroboros.backend.base import (
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
from ouroboros.backend.local.cache.prefix_cache import LIMIT
from ouroboros.backend.local.convert import blend, export, merge
from ouroboros.backend.local.model.load import BaseRuntime, load_base
from ouroboros.backend.local.runtime.memory import keep_freed
from ouroboros.backend.local.runtime.worker import Steps, Worker
from ouroboros.backend.local.serving.continuous_batch import ActiveRequest, ContinuousBatch
from ouroboros.backend.local.serving.embed import Embedding
from ouroboros.backend.local.serving.score import ScoreItem, measure_strength, score_outputs
from ouroboros.backend.local.serving.sequence import GeneratedSequence, TokenizedPrompt
from ouroboros.backend.local.training.base_samples import BaseSamples
from ouroboros.backend.local.training.null_space_update import update
from ouroboros.backend.local.training.rows import TokenizedRow, add_references, tokenize_rows
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import train
from ouroboros.domain.base_model import BaseModel, LinearShape
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import ANSWER, AdapterConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import NotFound
from ouroboros.domain.generation import Generation
from ouroboros.domain.places import cache_folder
from ouroboros.domain.routing import Vector
from ouroboros.domain.training import OnProgress, TrainingProgress, TrainingReport
from ouroboros.domain.weights import AdapterFiles, ExportForm
from ouroboros.lora import peft_files
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.peft_files import UnpackedAdapter
from ouroboros.lora.size import check_size
from ouroboros.lora.targets import select_layers
from ouroboros.lora.weights import LoraWeights, LowRank

T = TypeVar("T")

RESIDENT_BYTES = 1 << 30
"""Adapters kept in memory, at most: the least recently used ones go first."""


class LocalBackend:
    """A frozen base in this process, and the adapters in memory beside it.

    All tensor work runs on one worker thread, step by step, so training and serving share the machine
    fairly and the event loop is never blocked.
    """

    def __init__(
        self,
        frozen: BaseRuntime,
        threads: int | None = None,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self._frozen = frozen
        self._batch = ContinuousBatch(frozen)
        self._pool = GradientBatcher(frozen, lambda: self._batch.running)
        self._resident_bytes = resident_bytes
        self._passages = BaseSamples(frozen, cache_folder() / "passages")
        self._expected: Counter[str] = Counter()
        self._keeping = Lock()
        self._resident: OrderedDict[str, BankedAdapter] = OrderedDict()
        self._embedding: Embedding | None = None
        frozen.threads.most = threads or frozen.threads.most
        self._worker = Worker("ouroboros-backend", prepare=frozen.threads.all)

    @classmethod
    def open(
        cls,
        model: str,
        *,
        dtype: str = "auto",
        threads: int | None = None,
        device: str = "auto",
        quantize: str = "none",
        prompt_bytes: int = LIMIT,
    ) -> "LocalBackend":
        """Load a base: "starter", a folder, or a hub id. Blocks; raises `ModelError`.

        What is in memory then is there to stay, so Python no longer looks for garbage in it: with the
        libraries loaded that took 0.2 s whenever it came, in the middle of an answer. `close` ends that.
        """
        keep_freed()
        backend = cls(load_base(model, dtype, device, quantize, prompt_bytes), threads)
        gc.freeze()
        return backend

    async def base(self) -> BaseModel:
        return self._frozen.base

    async def initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        return await self._call(lambda: self._initialize(config, seed))

    async def load(self, files: AdapterFiles) -> str:
        digest = files.digest
        if not await self.loaded(digest):
            await self._call(lambda: self._admit(digest, self._read(files), asked=False))
        return digest

    async def loaded(self, digest: str) -> bool:
        """True is a promise: the adapter stays until a request has named it."""
        with self._keeping:
            found = digest in self._resident
            if found:
                self._expected[digest] += 1
        return found

    async def check(self, rows: Sequence[Row]) -> None:
        await self._call(lambda: tokenize_rows(self._frozen, rows))

    async def train(
        self,
        job: TrainJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await self._worker.run(self._train(job), on_progress, cancel, learning=True)

    async def update(
        self,
        job: UpdateJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        return await self._worker.run(self._update(job), on_progress, cancel, learning=True)

    async def generate(
        self, requests: Sequence[GenerateRequest], cancel: CancellationToken | None = None
    ) -> list[Generation]:
        token = cancel or CancellationToken()
        seats = await self._call(lambda: self._ask(requests, token, None))
        waiting = asyncio.gather(*(asyncio.wrap_future(s.done) for s in seats), return_exceptions=True)
        try:
            found = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            token.cancel()
            await waiting
            raise
        return [_result(f) for f in found]

    async def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[GenerationChunk | None] = asyncio.Queue()
        token = cancel or CancellationToken()

        def tell(piece: GenerationChunk) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, piece)

        (seat,) = await self._call(lambda: self._ask([request], token, tell))
        done = asyncio.wrap_future(seat.done)
        done.add_done_callback(lambda _: pieces.put_nowait(None))
        try:
            while (piece := await pieces.get()) is not None:
                if piece.text or piece.generation:
                    yield piece
            await done
        finally:
            token.cancel()
            await asyncio.wait([done])
            done.exception()  # whoever left early does not want to hear of it

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        return await self._worker.run(self._score(requests), None, cancel, learning=True)

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> Merged:
        return await self._worker.run(merge(self._frozen.base, job), None, cancel, learning=True)

    async def blend(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        return await self._call(lambda: blend(self._frozen.base, start, end, share))

    async def strength(self, files: AdapterFiles) -> float:
        return await self._call(lambda: measure_strength(self._frozen, self._unpack(files).weights))

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        return await self._call(lambda: self._unpack(files).config)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        return await self._call(lambda: self._embed(texts))

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        return await self._call(lambda: export(self._frozen.base, files, form))

    async def close(self) -> None:
        await asyncio.to_thread(self._worker.close)
        self._batch.close()
        self._resident.clear()
        gc.unfreeze()

    async def _call(self, function: Callable[[], T]) -> T:
        """Run something short on the worker."""

        def once() -> Generator[None, None, T]:
            yield from ()  # a single step: each waits for a turn of everyone else
            return function()

        return await self._worker.run(once())

    # Below: on the worker thread.

    def _initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        check_size(self._frozen.base, config)
        peft_files.invocation_tokens(config, self._frozen.base)
        shapes = select_layers(self._frozen.base, config)
        generator = torch.Generator().manual_seed(seed)
        weights = {s.path: _fresh(s, config, generator) for s in shapes}
        return self._pack(weights, config)

    def _train(self, job: TrainJob) -> Steps[TrainingProgress, TrainOutcome]:
        adapter = self._banked(job.start)
        anchors = yield from self._anchors(job, adapter)
        report = yield from train(
            self._pool,
            adapter,
            job.rows,
            job.adapter,
            job.training,
            job.replay,
            job.checkpoints,
            anchors,
        )
        return self._outcome(adapter, job.adapter, report)

    def _anchors(
        self, job: TrainJob, adapter: BankedAdapter
    ) -> Steps[TrainingProgress, Sequence[TokenizedRow]]:
        if not job.training.anchors:
            return ()
        if job.anchors is None:
            return (yield from self._passages.load_or_generate())
        return (
            yield from add_references(self._frozen, adapter, tokenize_rows(self._frozen, job.anchors))
        )

    def _update(self, job: UpdateJob) -> Steps[TrainingProgress, TrainOutcome]:
        adapter = self._banked(job.start)
        report = yield from update(self._pool, adapter, job.rows, job.protect, job.update)
        return self._outcome(adapter, job.adapter, report)

    def _outcome(
        self, adapter: BankedAdapter, config: AdapterConfig, report: TrainingReport
    ) -> TrainOutcome:
        """The weights as they are stored, which is also how they will be served."""
        files = self._pack(adapter.weights(), config)
        if rounded := peft_files.storage_rounding(files):
            adapter.round(rounded)
        self._admit(files.digest, adapter if rounded else self._read(files))
        return TrainOutcome(files, report)

    def _ask(
        self,
        requests: Sequence[GenerateRequest],
        cancel: CancellationToken,
        tell: Callable[[GenerationChunk], None] | None,
    ) -> list[ActiveRequest]:
        """Let requests join the running batch, all of them or, where one is at fault, none."""
        codec = self._frozen.codec
        questions = [
            TokenizedPrompt(codec.prompt_ids(r.prompt), r.config, self._adapter(r.adapter))
            for r in requests
        ]
        seats = [ActiveRequest(GeneratedSequence(q, codec), tell, cancel) for q in questions]
        self._batch.ask(seats)
        if not self._batch.running:
            self._worker.start(self._batch.steps())
        return seats

    def _score(self, requests: Sequence[ScoreRequest]) -> Steps[Any, list[Score]]:
        codec = self._frozen.codec
        asked = [
            ScoreItem(codec.sequence(r.prompt, r.output), self._adapter(r.adapter), r.drift)
            for r in requests
        ]
        return (yield from score_outputs(self._frozen, asked))

    def _embed(self, texts: Sequence[str]) -> list[Vector]:
        if self._embedding is None:
            self._embedding = Embedding(self._frozen)
        return [tuple(vector) for vector in self._embedding(texts).tolist()]

    def _adapter(self, digest: str | None) -> BankedAdapter | None:
        if digest is None:
            return None
        adapter = self._resident.get(digest)
        if adapter is None:
            raise NotFound(f"No adapter {digest[:12]} is loaded.", hint="Load its files first.")
        with self._keeping:
            self._resident.move_to_end(digest)
            self._expected[digest] = max(0, self._expected[digest] - 1)
        return adapter

    def _admit(self, digest: str, adapter: BankedAdapter, *, asked: bool = True) -> None:
        """Keep an adapter in memory, and let go of those used least recently.

        One that has a request in flight stays, and so does one that was loaded and not asked for yet.
        """
        inject(self._frozen.model, adapter.paths, self._frozen.bank)
        with self._keeping:
            self._resident[digest] = adapter
            self._expected[digest] += not asked
            taken, busy = sum(a.nbytes for a in self._resident.values()), self._batch.adapters
            for old, other in list(self._resident.items())[:-1]:
                if taken > self._resident_bytes and other not in busy and not self._expected[old]:
                    del self._resident[old]
                    taken -= other.nbytes

    def _banked(self, files: AdapterFiles) -> BankedAdapter:
        """An adapter to train: of the one in memory, where it is there."""
        kept = self._resident.get(files.digest)
        adapter = kept.copy() if kept is not None else self._read(files)
        inject(self._frozen.model, adapter.paths, self._frozen.bank)
        return adapter

    def _read(self, files: AdapterFiles) -> BankedAdapter:
        """From any thread: the model is not touched."""
        found = self._unpack(files)
        opening = len(self._frozen.base.opening) if found.config.acts_on == ANSWER else None
        return BankedAdapter(found.weights, self._frozen.dtype, self._frozen.device, opening)

    def _unpack(self, files: AdapterFiles) -> UnpackedAdapter:
        return peft_files.unpack(files, self._frozen.base)

    def _pack(self, weights: LoraWeights, config: AdapterConfig) -> AdapterFiles:
        return peft_files.pack(weights, config, self._frozen.base)


def _result(found: Generation | BaseException) -> Generation:
    if isinstance(found, BaseException):
        raise found
    return found


def _fresh(shape: LinearShape, config: AdapterConfig, generator: torch.Generator) -> LowRank:
    """PEFT's initial factors: A uniform in +-1/sqrt(I) (Kaiming with a = sqrt(5)), B zero."""
    bound = shape.inputs**-0.5
    a = torch.empty(config.rank, shape.inputs).uniform_(-bound, bound, generator=generator)
    return LowRank(a, torch.zeros(shape.outputs, config.rank), config.scale)
