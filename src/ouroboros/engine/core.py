"""What every verb stands on: backend, registry, collaborators, and `Result`."""

import asyncio
import functools
import inspect
import os
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from ouroboros.backend.base import Backend, Embedder
from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.errors import InvalidInput, OuroborosError, explain_system_error
from ouroboros.domain.names import AdapterId
from ouroboros.domain.result import Err, Ok, Result
from ouroboros.engine.evaluator import Evaluator
from ouroboros.engine.feedback_learner import FeedbackLearner
from ouroboros.engine.gate import PromotionGate
from ouroboros.engine.instructions import InstructionReader
from ouroboros.engine.performance_monitor import PerformanceMonitor
from ouroboros.engine.rebuilder import Rebuilder
from ouroboros.engine.routing import AdapterRouter, BaseEmbedder
from ouroboros.engine.trainer import Trainer
from ouroboros.engine.version_loader import VersionLoader
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.learning.replay.reservoir import MAX_ROWS
from ouroboros.registry.adapter_lock import AdapterLocks
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")
C = TypeVar("C", bound="Core")

CHECKPOINT_SECONDS = 30.0
"""Seconds between the checkpoints of a training: what a crash can cost, at most."""


def verb(
    method: Callable[Concatenate[C, P], Awaitable[T]],
) -> Callable[Concatenate[C, P], Coroutine[Any, Any, Result[T]]]:
    """Return what a verb returns as `Ok`, and our errors and the system's as `Err`.

    Anything else is a bug and raises.
    """

    @functools.wraps(method)
    async def call(self: C, *args: P.args, **kwargs: P.kwargs) -> Result[T]:
        try:
            self._require_open()
            return Ok(await method(self, *args, **kwargs))
        except OuroborosError as error:
            return Err(error)
        except Exception as error:
            explained = explain_system_error(error)
            if explained is None:
                raise
            explained.__cause__ = error
            return Err(explained)

    # `help` and notebooks show the `Result` that a caller gets.
    signature = inspect.signature(method)
    value = inspect.formatannotation(signature.return_annotation)
    result = f"Result[{re.sub(r'(?:[A-Za-z_]+[.])+', '', value)}]"
    call.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
    return call


class Core:
    """Holds the parts that verbs use, and the collaborators that they share."""

    def __init__(
        self,
        backend: Backend,
        registry: Registry,
        feedback_limit: UserLimit | None = None,
        gate: GatePolicy | None = None,
        replay_rows: int = MAX_ROWS,
        auto_rollback: float = 0.0,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
        embedder: Embedder | None = None,
    ) -> None:
        self._process = os.getpid()
        self._closed = False
        # Backend, registry, and the locks under which heads move.
        self._backend = backend
        self._registry = AsyncRegistry(registry)
        self._locks = AdapterLocks(registry.leases)
        self._submission_locks: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._checkpoint_seconds = checkpoint_seconds
        # Collaborators: steps that several verbs share.
        self._loader = VersionLoader(backend, self._registry)
        self._instructions = InstructionReader(self._registry)
        self._evaluator = Evaluator(backend, self._loader, self._instructions)
        self._monitor = PerformanceMonitor(self._registry, self._locks, auto_rollback)
        self._gate = PromotionGate(backend, self._registry, gate, replay_rows)
        self._router = AdapterRouter(
            embedder or BaseEmbedder(backend), backend, self._registry, self._gate
        )
        self._trainer = Trainer(backend, self._gate)
        self._feedback_learner = FeedbackLearner(
            backend, self._registry, self._gate, self._locks, feedback_limit or UserLimit()
        )
        self._rebuilder = Rebuilder(
            backend, self._registry, self._gate, self._trainer, self._feedback_learner
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Release the model, threads and stores. Pending feedback stays in the journal."""
        if self._closed or os.getpid() != self._process:
            return  # what a fork copied belongs to its parent
        self._closed = True
        await self._feedback_learner.close()
        await self._backend.close()
        await asyncio.to_thread(self._registry.blocking.close)

    def _require_open(self) -> None:
        """Raise `InvalidInput` after `close`, and in a forked process, which has none of the threads."""
        if os.getpid() != self._process:
            raise InvalidInput(
                "This engine belongs to the process that was forked.",
                hint="Open another one after the fork: open_engine or open_sync_engine.",
            )
        if self._closed:
            raise InvalidInput(
                "This engine is closed.", hint="Open another one: open_engine or open_sync_engine."
            )

    @verb
    async def base(self) -> BaseModel:
        """The frozen base as a value; `AdapterConfig.auto` takes it."""
        return await self._backend.base()
