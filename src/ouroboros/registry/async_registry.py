"""`AsyncRegistry`: the registry for callers on an event loop.

Every method has the name, arguments and result of the blocking one and runs it in a worker thread:
`await registry.commit(...)`. Work that has begun is finished even if the caller is cancelled.
"""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ouroboros.registry.jobs import Jobs
from ouroboros.registry.journal import Journal
from ouroboros.registry.leases import Leases
from ouroboros.registry.profiles import ProfileStore
from ouroboros.registry.registry import Registry
from ouroboros.registry.scores import ProbeScoreStore
from ouroboros.registry.threads import in_thread

P = ParamSpec("P")
T = TypeVar("T")
B = TypeVar("B")


class AsyncFacade(Generic[B]):
    """Holds the `blocking` object whose methods run in a worker thread."""

    def __init__(self, blocking: B) -> None:
        self.blocking = blocking


def _awaitable(
    method: Callable[Concatenate[B, P], T],
) -> Callable[Concatenate[AsyncFacade[B], P], Coroutine[Any, Any, T]]:
    """The same method, with the same arguments, to be awaited."""

    @functools.wraps(method)
    async def call(self: AsyncFacade[B], *args: P.args, **kwargs: P.kwargs) -> T:
        # By name, so that a subclass of the blocking class may override the method.
        return await in_thread(getattr(self.blocking, method.__name__), *args, **kwargs)

    return call


class AsyncJournal(AsyncFacade[Journal]):
    """`Journal`, to be awaited."""

    examples = _awaitable(Journal.examples)
    append = _awaitable(Journal.append)
    read = _awaitable(Journal.read)
    end = _awaitable(Journal.end)
    erase = _awaitable(Journal.erase)


class AsyncJobs(AsyncFacade[Jobs]):
    """`Jobs`, to be awaited."""

    open = _awaitable(Jobs.open)
    get = _awaitable(Jobs.get)
    all = _awaitable(Jobs.all)
    change = _awaitable(Jobs.change)
    save = _awaitable(Jobs.save)
    state = _awaitable(Jobs.state)
    restart = _awaitable(Jobs.restart)
    close = _awaitable(Jobs.close)
    collect = _awaitable(Jobs.collect)


class AsyncLeases(AsyncFacade[Leases]):
    """`Leases`, to be awaited."""

    take = _awaitable(Leases.take)
    release = _awaitable(Leases.release)
    is_held = _awaitable(Leases.is_held)


class AsyncProbeScoreStore(AsyncFacade[ProbeScoreStore]):
    """`ProbeScoreStore`, to be awaited."""

    get = _awaitable(ProbeScoreStore.get)
    put = _awaitable(ProbeScoreStore.put)
    drop = _awaitable(ProbeScoreStore.drop)


class AsyncProfileStore(AsyncFacade[ProfileStore]):
    """`ProfileStore`, to be awaited."""

    all = _awaitable(ProfileStore.all)
    put = _awaitable(ProfileStore.put)
    drop = _awaitable(ProfileStore.drop)


class AsyncRegistry(AsyncFacade[Registry]):
    """`Registry` and its parts, to be awaited."""

    def __init__(self, blocking: Registry) -> None:
        super().__init__(blocking)
        self.journal = AsyncJournal(blocking.journal)
        self.jobs = AsyncJobs(blocking.jobs)
        self.leases = AsyncLeases(blocking.leases)
        self.scores = AsyncProbeScoreStore(blocking.scores)
        self.sketches = AsyncProfileStore(blocking.sketches)

    close = _awaitable(Registry.close)
    require_free = _awaitable(Registry.require_free)
    create = _awaitable(Registry.create)
    commit = _awaitable(Registry.commit)
    store_unserved = _awaitable(Registry.store_unserved)
    mark_applied = _awaitable(Registry.mark_applied)
    rollback = _awaitable(Registry.rollback)
    head_moves = _awaitable(Registry.head_moves)
    get = _awaitable(Registry.get)
    adapters = _awaitable(Registry.adapters)
    delete = _awaitable(Registry.delete)
    version = _awaitable(Registry.version)
    versions = _awaitable(Registry.versions)
    lineage = _awaitable(Registry.lineage)
    unfinished = _awaitable(Registry.unfinished)
    files = _awaitable(Registry.files)

    async def run(
        self, function: Callable[Concatenate[Registry, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that takes the blocking registry first, such as `lineage.ancestors`."""
        return await in_thread(function, self.blocking, *args, **kwargs)
