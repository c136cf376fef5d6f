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
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.prompts import Prompt
from ouroboros.domain.records import Adapter, Version
from ouroboros.domain.result import Result
from ouroboros.domain.training import OnProgress
from ouroboros.engine import AdapterLearningEngine

T = TypeVar("T")


class SyncEngine:
    """The engine's verbs, blocking. Works inside a notebook too: the engine has a loop of its own.

    Ctrl-C during a verb cancels it as asyncio would.
    """

    def __init__(self, engine: AdapterLearningEngine) -> None:
        self._engine = engine
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ouroboros-sync", daemon=True)
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

    def generate_with_adapter(
        self,
        prompt: Prompt,
        adapter_id: str | AdapterId | VersionRef | None = None,
        config: GenerationConfig | None = None,
        *,
        cancel: CancellationToken | None = None,
    ) -> Result[Generation]:
        return self._run(
            self._engine.generate_with_adapter(prompt, adapter_id, config, cancel=cancel)
        )

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

    def list_adapters(self) -> Result[list[Adapter]]:
        return self._run(self._engine.list_adapters())

    def get_adapter(self, adapter_id: str | AdapterId) -> Result[Adapter]:
        return self._run(self._engine.get_adapter(adapter_id))

    def get_versions(self, adapter_id: str | AdapterId) -> Result[list[Version]]:
        return self._run(self._engine.get_versions(adapter_id))

    def delete_adapter(self, adapter_id: str | AdapterId) -> Result[None]:
        return self._run(self._engine.delete_adapter(adapter_id))

    def _run(self, verb: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(verb, self._loop)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise
