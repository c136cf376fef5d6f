"""What every verb stands on: backend, registry, the locks under which heads move, and `Result`."""

import asyncio
import functools
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ouroboros.backend.base import Backend, Embedder
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidExample, OuroborosError
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.engine.feedback_learner import FeedbackLearner
from ouroboros.engine.gate import PromotionGate
from ouroboros.engine.routing import AdapterRouter, BaseEmbedder
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.gate.performance import PerformanceTracker
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.learning.replay.reservoir import ROWS
from ouroboros.registry.adapter_lock import AdapterLocks
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="Core")

CHECKPOINT_SECONDS = 30.0
"""A training that takes longer keeps its state this often: what a crash can cost, at most."""


def verb(
    method: Callable[Concatenate[C, P], Awaitable[T]],
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, Result[T]]]:
    """Hand out what a verb returns as `Ok`, our errors as `Err`; anything else is a bug and raises."""

    @functools.wraps(method)
    async def call(self: C, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
        try:
            return Ok(await method(self, *args, **kwargs))
        except OuroborosError as error:
            return Err(error)

    return call


class Core:
    """Holds the parts; puts nothing in sequence itself."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        feedback_limit: UserLimit | None = None,
        gate: GatePolicy | None = None,
        replay_rows: int = ROWS,
        auto_rollback: float = 0.0,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        embedder: Embedder | None = None,
    ) -> None:
        self._backend = backend
        self._registry = AsyncRegistry(registry)
        self._writing = AdapterLocks(registry.leases)
        self._entering: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._checkpoint_seconds = checkpoint_seconds
        self._auto_rollback = auto_rollback
        self._trackers: dict[tuple[AdapterId, int], PerformanceTracker] = {}
        self._gate = PromotionGate(backend, self._registry, gate, replay_rows)
        embedder = embedder or BaseEmbedder(backend)
        self._router = AdapterRouter(embedder, backend, self._registry, self._gate)
        self._feedback_learner = FeedbackLearner(
            backend, self._registry, self._gate, self._writing, feedback_limit or UserLimit()
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the model, threads and stores. Feedback not learned yet stays in the journal."""
        await self._feedback_learner.close()
        await self._backend.close()
        await asyncio.to_thread(self._registry.blocking.close)

    @verb
    async def base(self) -> BaseModel:
        """The frozen base as a value; `AdapterConfig.auto` takes it."""
        return await self._backend.base()

    async def _adapter(self, adapter_id: AdapterId) -> Adapter:
        """The adapter, if it was made for this base."""
        adapter = await self._registry.get(adapter_id)
        base = await self._backend.base()
        base.fingerprint.require(adapter.base, f"Adapter {adapter.id.name!r}")
        return adapter

    async def _adapters(self, adapter_id: str | AdapterId | None) -> list[Adapter]:
        if adapter_id is None:
            return await self._registry.adapters()
        return [await self._adapter(VersionRef.parse(adapter_id).adapter)]


def check_examples(examples: Sequence[TrainingExample]) -> None:
    """Raise `InvalidExample`, naming the first that is wrong, if any is."""
    if not examples:
        raise InvalidExample("There are no examples.", hint="Give at least one.")
    for i, example in enumerate(examples, start=1):
        try:
            example.check()
        except InvalidExample as error:
            raise InvalidExample(f"Example {i}: {error.message}", hint=error.hint) from None


def raise_if_cancelled(cancel: CancellationToken | None) -> None:
    if cancel is not None:
        cancel.raise_if_cancelled()
