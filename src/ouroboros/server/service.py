"""`Service`: what all handlers share, and the limits under which they work."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.data import Prompt, check_prompt
from ouroboros.domain.errors import InvalidName, NotFound
from ouroboros.domain.names import AUTO_ADAPTER, VersionRef
from ouroboros.engine import AdapterLearningEngine
from ouroboros.server.errors import RequestError
from ouroboros.server.keys import Caller
from ouroboros.server.metrics import Metrics
from ouroboros.server.records import ServiceRecords


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    requests       answers in progress or waiting; one more is refused with 429.
    body_bytes     size of a request's body, files excepted.
    file_bytes     size of an uploaded file.
    body_seconds   time between two pieces of a body.
    keep_days      how long completions are kept, so that feedback can name them.
    drain_seconds  how long answers in progress may go on after SIGTERM.
    """

    requests: int = 256
    body_bytes: int = 8 * 2**20
    file_bytes: int = 128 * 2**20
    body_seconds: float = 30.0
    keep_days: float = 30.0
    drain_seconds: float = 30.0


@dataclass(frozen=True)
class Target:
    """Which version answers: `ref` is None for the base model."""

    ref: VersionRef | None
    version: str | None
    fingerprint: str


@dataclass
class Service:
    """The engine, the server's records, and how busy the server is."""

    engine: AdapterLearningEngine
    records: ServiceRecords
    limits: Limits = field(default_factory=Limits)
    keyless: bool = True
    active: int = 0
    draining: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)
    metrics: Metrics = field(default_factory=Metrics)
    on_drain: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.idle.set()

    def require_open(self) -> None:
        """Refuse new work while the server is being shut down."""
        if self.draining.is_set():
            raise RequestError(
                503,
                "The server is shutting down. Repeat the request in a moment.",
                code="draining",
                retry_after=5.0,
            )

    @contextmanager
    def occupy(self, rows: int) -> Iterator[None]:
        """Hold room for `rows` answers; 429 if the queue has none left."""
        self.require_open()
        if self.active + rows > self.limits.requests:
            raise RequestError(
                429,
                f"{self.active} answers are in progress or waiting, and at most"
                f" {self.limits.requests} may. Repeat the request in a moment.",
                code="queue_full",
                retry_after=1.0,
            )
        self.active += rows
        self.idle.clear()
        try:
            yield
        finally:
            self.active -= rows
            if not self.active:
                self.idle.set()

    async def base(self) -> BaseModel:
        return (await self.engine.base()).unwrap()

    async def resolve(self, model: str, prompt: Prompt, caller: Caller) -> Target:
        """The version that `model` stands for now, so that a whole answer comes from one version.

        `model` is the base's name, an adapter's, a version (`name@7`), or "auto".
        """
        base = await self.base()
        ref = None
        if model == AUTO_ADAPTER:
            ref = await self._route(prompt, caller)
        elif model != base.name:
            ref = await self.find_version(model, caller)
        digest = base.fingerprint.weights[:12]
        return Target(ref, str(ref) if ref else None, f"fp_{digest}_{ref or 'base'}")

    async def find_version(self, model: str, caller: Caller) -> VersionRef:
        """An adapter's version by name; 404 if there is none, or none that the caller may see."""
        try:
            ref = VersionRef.parse(model)
            caller.require_sight(ref.adapter.name)
            return (await self.engine.get_version(ref)).unwrap().ref
        except (NotFound, InvalidName) as error:
            raise RequestError(404, str(error), code="model_not_found", param="model") from None

    async def _route(self, prompt: Prompt, caller: Caller) -> VersionRef | None:
        """The adapter that knows the prompt's task, of those that the caller may see."""
        check_prompt("prompt", prompt)
        for match in (await self.engine.find_adapters(prompt, 5)).unwrap():
            if match.sure and caller.sees(match.adapter.name):
                return (await self.engine.get_version(VersionRef(match.adapter))).unwrap().ref
        return None
