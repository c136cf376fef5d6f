"""`SyncEngine`: the engine for scripts and notebooks, where nothing is awaited."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from ouroboros.backend.base import Delta
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.evaluation import Evaluation
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.prompts import Prompt
from ouroboros.domain.records import Adapter, Ticket, Version
from ouroboros.domain.result import Result
from ouroboros.domain.training import OnProgress
from ouroboros.domain.weights import AdapterFiles, ExportForm
from ouroboros.engine import AdapterLearningEngine

T = TypeVar("T")


class SyncEngine:
    """The engine's verbs, blocking. Works inside a notebook too: the engine has a loop of its own.

    Ctrl-C during a verb cancels it as asyncio would.
    """

    def __init__(self, engine: AdapterLearningEngine) -> None:
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="ouroboros-sync", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "SyncEngine":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._run(self._engine.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def base(self) -> Result[BaseModel]:
        return self._run(self._engine.base())

    def create_adapter(
        self, task_name: str | AdapterId, config: AdapterConfig | None = None, *, seed: int = 0
    ) -> Result[Adapter]:
        return self._run(self._engine.create_adapter(task_name, config, seed=seed))

    def train_adapter(
        self,
        adapter_id: str | AdapterId,
        examples: Sequence[TrainingExample],
        config: TrainingConfig | None = None,
        *,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> Result[Version]:
        return self._run(
            self._engine.train_adapter(
                adapter_id, examples, config, on_progress=on_progress, cancel=cancel
            )
        )

    def learn_from_feedback(
        self,
        prompt: Prompt,
        generation: str | Generation,
        feedback: FeedbackSignal,
        adapter_id: str | AdapterId,
        *,
        user: str | None = None,
        key: str | None = None,
        wait: bool = True,
        cancel: CancellationToken | None = None,
    ) -> Result[Ticket]:
        return self._run(
            self._engine.learn_from_feedback(
                prompt, generation, feedback, adapter_id, user=user, key=key, wait=wait, cancel=cancel
            )
        )

    def feedback_outcome(self, ticket: Ticket) -> Result[Ticket]:
        return self._run(self._engine.feedback_outcome(ticket))

    def learn_pending(self, adapter_id: str | AdapterId | None = None) -> Result[list[Adapter]]:
        return self._run(self._engine.learn_pending(adapter_id))

    def generate_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> Result[Generation]:
        return self._run(self._engine.generate_with_adapter(prompt, adapter_id, config, cancel=cancel))

    def stream_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
    ) -> Iterator[Result[Delta]]:
        pieces = self._engine.stream_with_adapter(prompt, adapter_id, config)
        try:
            while (piece := self._run(anext(pieces, None))) is not None:
                yield piece
        finally:
            self._run(pieces.aclose())  # type: ignore[attr-defined]  # an async generator has it

    def evaluate_adapter(
        self,
        adapter_id: str | AdapterId | VersionRef | None,
        examples: Sequence[TrainingExample],
        *,
        cancel: CancellationToken | None = None,
    ) -> Result[Evaluation]:
        return self._run(self._engine.evaluate_adapter(adapter_id, examples, cancel=cancel))

    def merge_adapters(
        self,
        adapter_ids: Sequence[str | AdapterId | VersionRef],
        strategy: MergeStrategy | MergeRecipe = MergeStrategy.AVERAGE,
        *,
        name: str | AdapterId | None = None,
        rank: int | None = None,
        probes: Sequence[TrainingExample] = (),
        cancel: CancellationToken | None = None,
    ) -> Result[MergeReport]:
        return self._run(
            self._engine.merge_adapters(
                adapter_ids, strategy, name=name, rank=rank, probes=probes, cancel=cancel
            )
        )

    def import_adapter(self, name: str | AdapterId, files: AdapterFiles) -> Result[Adapter]:
        return self._run(self._engine.import_adapter(name, files))

    def export_adapter(
        self, adapter_id: str | AdapterId | VersionRef, form: ExportForm = ExportForm.PEFT
    ) -> Result[dict[str, bytes]]:
        return self._run(self._engine.export_adapter(adapter_id, form))

    def list_adapters(self) -> Result[list[Adapter]]:
        return self._run(self._engine.list_adapters())

    def get_adapter(self, adapter_id: str | AdapterId) -> Result[Adapter]:
        return self._run(self._engine.get_adapter(adapter_id))

    def get_versions(self, adapter_id: str | AdapterId) -> Result[list[Version]]:
        return self._run(self._engine.get_versions(adapter_id))

    def rollback_adapter(self, version: str | VersionRef, *, replay: bool = False) -> Result[Adapter]:
        return self._run(self._engine.rollback_adapter(version, replay=replay))

    def delete_adapter(self, adapter_id: str | AdapterId) -> Result[None]:
        return self._run(self._engine.delete_adapter(adapter_id))

    def _run(self, verb: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(verb, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
