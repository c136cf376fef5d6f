"""`LocalBackend`: the Backend protocol on PyTorch in this process."""

import asyncio
import gc
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any, TypeVar

import torch

from ouroboros.backend.base import (
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
from ouroboros.backend.local.cache.prefix_cache import DEFAULT_MAX_BYTES
from ouroboros.backend.local.convert import export, interpolate, merge, shrink
from ouroboros.backend.local.model.load import BaseRuntime, load_base
from ouroboros.backend.local.runtime.memory import keep_freed_memory, return_freed_memory
from ouroboros.backend.local.runtime.worker import Steps, Worker
from ouroboros.backend.local.serving.continuous_batch import ActiveRequest, ContinuousBatch
from ouroboros.backend.local.serving.embed import BaseTextEmbedder
from ouroboros.backend.local.serving.score import ScoreItem, measure_strength, score_outputs
from ouroboros.backend.local.serving.sequence import GeneratedSequence, TokenizedPrompt
from ouroboros.backend.local.training.base_samples import BaseSamples
from ouroboros.backend.local.training.null_space_update import update
from ouroboros.backend.local.training.rows import TokenizedRow, add_references, tokenize_rows
from ouroboros.backend.local.training.shared_gradients import GradientBatcher
from ouroboros.backend.local.training.train import train
from ouroboros.cache import cache_folder
from ouroboros.domain.base_model import BaseModel, LinearShape
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import ANSWER, AdapterConfig
from ouroboros.domain.data import Continuation, Row
from ouroboros.domain.errors import NotFound
from ouroboros.domain.generation import Generation
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
"""Bytes of adapters in memory, at most; the least recently used ones are removed first."""


class LocalBackend:
    """A frozen base in this process, with adapters in memory.

    All tensor work runs on one worker thread, step by step, so training and serving share the machine
    fairly and the event loop is never blocked.
    """

    def __init__(
        self,
        runtime: BaseRuntime,
        threads: int | None = None,
        resident_bytes: int = RESIDENT_BYTES,
    ) -> None:
        self._runtime = runtime
        self._batch = ContinuousBatch(runtime)
        self._gradient_batcher = GradientBatcher(runtime, lambda: self._batch.running)
        self._resident_bytes = resident_bytes
        self._base_samples = BaseSamples(runtime, cache_folder() / "passages")
        self._promised_uses: Counter[str] = Counter()
        self._resident_lock = Lock()
        self._resident: OrderedDict[str, BankedAdapter] = OrderedDict()
        self._text_embedder: BaseTextEmbedder | None = None
        runtime.threads.max_threads = threads or runtime.threads.max_threads
        self._worker = Worker(
            "ouroboros-backend", prepare=runtime.threads.use_all, rest=return_freed_memory
        )

    @classmethod
    def open(
        cls,
        model: str,
        *,
        dtype: str = "auto",
        threads: int | None = None,
        device: str = "auto",
        quantize: str = "none",
        prompt_bytes: int = DEFAULT_MAX_BYTES,
    ) -> "LocalBackend":
        """Load a base: "starter", a folder, or a hub id. Blocks; raises `ModelError`.

        Objects in memory after loading live on, so garbage collection skips them from then on: a full
        collection took 0.2 s, in the middle of an answer. `close` undoes this.
        """
        keep_freed_memory()
        backend = cls(load_base(model, dtype, device, quantize, prompt_bytes), threads)
        gc.freeze()
        return backend

    async def base(self) -> BaseModel:
        return self._runtime.base

    async def initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        return await self._run_short(lambda: self._initialize(config, seed))

    async def load(self, files: AdapterFiles) -> str:
        digest = files.digest
        if not await self.is_loaded(digest):
            await self._run_short(
                lambda: self._keep_resident(digest, self._unpack_to_bank(files), used=False)
            )
        return digest

    async def is_loaded(self, digest: str) -> bool:
        """True promises that the adapter stays in memory until a request has named it."""
        with self._resident_lock:
            resident = digest in self._resident
            if resident:
                self._promised_uses[digest] += 1
        return resident

    async def check_rows(self, rows: Sequence[Row]) -> None:
        await self._run_short(lambda: tokenize_rows(self._runtime, rows))

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
        active = await self._run_short(lambda: self._submit_requests(requests, token, None))
        waiting = asyncio.gather(
            *(asyncio.wrap_future(s.future) for s in active), return_exceptions=True
        )
        try:
            generations = await asyncio.shield(waiting)
        except asyncio.CancelledError:
            token.cancel()
            await waiting
            raise
        return [_raise_or_return(f) for f in generations]

    async def stream(
        self, request: GenerateRequest, cancel: CancellationToken | None = None
    ) -> AsyncIterator[GenerationChunk]:
        loop = asyncio.get_running_loop()
        deltas: asyncio.Queue[GenerationChunk | None] = asyncio.Queue()
        token = cancel or CancellationToken()

        def on_delta(piece: GenerationChunk) -> None:
            loop.call_soon_threadsafe(deltas.put_nowait, piece)

        (active,) = await self._run_short(lambda: self._submit_requests([request], token, on_delta))
        done = asyncio.wrap_future(active.future)
        done.add_done_callback(lambda _: deltas.put_nowait(None))
        try:
            while (piece := await deltas.get()) is not None:
                if piece.text or piece.generation:
                    yield piece
            await done
        finally:
            token.cancel()
            await asyncio.wait([done])
            done.exception()  # mark it as retrieved: a caller that stopped early needs no warning

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        return await self._worker.run(self._score(requests), None, cancel, learning=True)

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> MergedAdapter:
        return await self._worker.run(merge(self._runtime.base, job), None, cancel, learning=True)

    async def shrink(
        self, files: AdapterFiles, cancel: CancellationToken | None = None
    ) -> MergedAdapter:
        return await self._worker.run(shrink(self._runtime.base, files), None, cancel, learning=True)

    async def interpolate(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        return await self._run_short(lambda: interpolate(self._runtime.base, start, end, share))

    async def measure_strength(self, files: AdapterFiles) -> float:
        return await self._run_short(
            lambda: measure_strength(self._runtime, self._unpack(files).weights)
        )

    async def validate(self, files: AdapterFiles) -> AdapterConfig:
        # A hostile file can cost a second. The worker, which answers, only gets sound ones.
        await asyncio.to_thread(peft_files.check_structure, files, self._runtime.base)
        return await self._run_short(lambda: self._unpack(files).config)

    async def embed(self, texts: Sequence[str]) -> list[Vector]:
        return await self._run_short(lambda: self._embed(texts))

    async def export(self, files: AdapterFiles, form: ExportForm) -> dict[str, bytes]:
        return await self._run_short(lambda: export(self._runtime.base, files, form))

    async def close(self) -> None:
        await asyncio.to_thread(self._worker.close)
        self._runtime.threads.close()
        self._batch.close()
        self._resident.clear()
        gc.unfreeze()

    async def _run_short(self, function: Callable[[], T]) -> T:
        """Run a short function on the worker thread."""

        def single_step() -> Generator[None, None, T]:
            yield from ()  # no yield: each one would wait for a turn of all other work
            return function()

        return await self._worker.run(single_step())

    # Below: on the worker thread.

    def _initialize(self, config: AdapterConfig, seed: int) -> AdapterFiles:
        check_size(self._runtime.base, config)
        peft_files.invocation_tokens(config, self._runtime.base)
        shapes = select_layers(self._runtime.base, config)
        generator = torch.Generator().manual_seed(seed)
        weights = {s.path: _initial_factors(s, config, generator) for s in shapes}
        return self._pack(weights, config)

    def _train(self, job: TrainJob) -> Steps[TrainingProgress, TrainOutcome]:
        adapter = self._copy_for_training(job.start)
        anchors = yield from self._prepare_anchors(job, adapter)
        report = yield from train(
            self._gradient_batcher,
            adapter,
            job.rows,
            job.adapter,
            job.training,
            job.replay,
            job.checkpoints,
            anchors,
        )
        return self._finish_outcome(adapter, job.adapter, report)

    def _prepare_anchors(
        self, job: TrainJob, adapter: BankedAdapter
    ) -> Steps[TrainingProgress, Sequence[TokenizedRow]]:
        if not job.training.anchors:
            return ()
        if job.anchors is None:
            return (yield from self._base_samples.load_or_generate())
        conversation = self._runtime.tokenizer.anchor_conversation
        rows = tokenize_rows(
            self._runtime, [replace(row, prompt=conversation(row.prompt)) for row in job.anchors]
        )
        return (yield from add_references(self._runtime, adapter, rows))

    def _update(self, job: UpdateJob) -> Steps[TrainingProgress, TrainOutcome]:
        adapter = self._copy_for_training(job.start)
        report = yield from update(self._gradient_batcher, adapter, job.rows, job.protect, job.update)
        return self._finish_outcome(adapter, job.adapter, report)

    def _finish_outcome(
        self, adapter: BankedAdapter, config: AdapterConfig, report: TrainingReport
    ) -> TrainOutcome:
        """Pack the weights, and round those in memory as stored, so both give the same answers."""
        files = self._pack(adapter.weights(), config)
        if rounded := peft_files.storage_rounding(files):
            adapter.round_to(rounded)
        self._keep_resident(files.digest, adapter if rounded else self._unpack_to_bank(files))
        return TrainOutcome(files, report)

    def _submit_requests(
        self,
        requests: Sequence[GenerateRequest],
        cancel: CancellationToken,
        on_delta: Callable[[GenerationChunk], None] | None,
    ) -> list[ActiveRequest]:
        """Submit requests to the batch: all of them, or none if one is invalid."""
        tokenizer = self._runtime.tokenizer
        prompts = [
            TokenizedPrompt(
                tokenizer.encode_continuation(r.prompt)
                if isinstance(r.prompt, Continuation)
                else tokenizer.encode_prompt(r.prompt),
                r.config,
                self._resident_adapter(r.adapter),
            )
            for r in requests
        ]
        active = [ActiveRequest(GeneratedSequence(q, tokenizer), on_delta, cancel) for q in prompts]
        self._batch.submit(active)
        if not self._batch.running:
            self._worker.run_detached(self._batch.steps())
        return active

    def _score(self, requests: Sequence[ScoreRequest]) -> Steps[Any, list[Score]]:
        tokenizer = self._runtime.tokenizer
        items = [
            ScoreItem(
                tokenizer.encode_pair(
                    tokenizer.anchor_conversation(r.prompt) if r.drift else r.prompt, r.output
                ),
                self._resident_adapter(r.adapter),
                r.drift,
            )
            for r in requests
        ]
        return (yield from score_outputs(self._runtime, items))

    def _embed(self, texts: Sequence[str]) -> list[Vector]:
        if self._text_embedder is None:
            self._text_embedder = BaseTextEmbedder(self._runtime)
        return [tuple(vector) for vector in self._text_embedder(texts).tolist()]

    def _resident_adapter(self, digest: str | None) -> BankedAdapter | None:
        if digest is None:
            return None
        adapter = self._resident.get(digest)
        if adapter is None:
            raise NotFound(f"No adapter {digest[:12]} is loaded.", hint="Load its files first.")
        with self._resident_lock:
            self._resident.move_to_end(digest)
            self._promised_uses[digest] = max(0, self._promised_uses[digest] - 1)
        return adapter

    def _keep_resident(self, digest: str, adapter: BankedAdapter, *, used: bool = True) -> None:
        """Keep an adapter in memory, and remove the least recently used ones over the limit.

        Adapters with a request in flight stay, and so do those loaded and not used yet.
        """
        inject(self._runtime.model, adapter.paths, self._runtime.bank)
        with self._resident_lock:
            self._resident[digest] = adapter
            self._promised_uses[digest] += not used
            total_bytes, busy = sum(a.nbytes for a in self._resident.values()), self._batch.adapters
            for candidate, other in list(self._resident.items())[:-1]:
                if (
                    total_bytes > self._resident_bytes
                    and other not in busy
                    and not self._promised_uses[candidate]
                ):
                    del self._resident[candidate]
                    total_bytes -= other.nbytes

    def _copy_for_training(self, files: AdapterFiles) -> BankedAdapter:
        """Returns a copy of an adapter to train, from memory if it is there, else from its files."""
        resident = self._resident.get(files.digest)
        adapter = resident.copy() if resident is not None else self._unpack_to_bank(files)
        inject(self._runtime.model, adapter.paths, self._runtime.bank)
        return adapter

    def _unpack_to_bank(self, files: AdapterFiles) -> BankedAdapter:
        """Unpack files; safe on any thread, as the model does not change."""
        unpacked = self._unpack(files)
        invocation_tokens = (
            len(self._runtime.base.invocation_tokens) if unpacked.config.acts_on == ANSWER else None
        )
        return BankedAdapter(
            unpacked.weights, self._runtime.dtype, self._runtime.device, invocation_tokens
        )

    def _unpack(self, files: AdapterFiles) -> UnpackedAdapter:
        return peft_files.unpack(files, self._runtime.base)

    def _pack(self, weights: LoraWeights, config: AdapterConfig) -> AdapterFiles:
        return peft_files.pack(weights, config, self._runtime.base)


def _raise_or_return(result: Generation | BaseException) -> Generation:
    if isinstance(result, BaseException):
        raise result
    return result


def _initial_factors(shape: LinearShape, config: AdapterConfig, generator: torch.Generator) -> LowRank:
    """PEFT's initial factors: A uniform in +-1/sqrt(I) (Kaiming with a = sqrt(5)), B zero."""
    bound = shape.inputs**-0.5
    a = torch.empty(config.rank, shape.inputs).uniform_(-bound, bound, generator=generator)
    return LowRank(a, torch.zeros(shape.outputs, config.rank), config.scale)
