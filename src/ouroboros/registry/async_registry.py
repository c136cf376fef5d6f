"""`AsyncRegistry`: the registry for callers on an event loop.

Every method has the name, arguments and result of the blocking one and runs it in a worker thread:
`await registry.commit_version(...)`. Work that has begun is finished even if the caller is cancelled.
"""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from ouroboros.registry.jobs import JobStore
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

    append_examples = _awaitable(Journal.append_examples)
    append = _awaitable(Journal.append)
    read = _awaitable(Journal.read)
    last_seq = _awaitable(Journal.last_seq)
    erase = _awaitable(Journal.erase)
    drop = _awaitable(Journal.drop)


class AsyncJobStore(AsyncFacade[JobStore]):
    """`JobStore`, to be awaited."""

    add = _awaitable(JobStore.add)
    get = _awaitable(JobStore.get)
    read_all = _awaitable(JobStore.read_all)
    update = _awaitable(JobStore.update)
    save_checkpoint = _awaitable(JobStore.save_checkpoint)
    load_checkpoint = _awaitable(JobStore.load_checkpoint)
    restart = _awaitable(JobStore.restart)
    remove = _awaitable(JobStore.remove)
    remove_unused_checkpoints = _awaitable(JobStore.remove_unused_checkpoints)


class AsyncLeases(AsyncFacade[Leases]):
    """`Leases`, to be awaited."""

    acquire = _awaitable(Leases.acquire)
    renew = _awaitable(Leases.renew)
    require_current = _awaitable(Leases.require_current)
    release = _awaitable(Leases.release)
    is_held = _awaitable(Leases.is_held)


class AsyncProbeScoreStore(AsyncFacade[ProbeScoreStore]):
    """`ProbeScoreStore`, to be awaited."""

    get = _awaitable(ProbeScoreStore.get)
    put = _awaitable(ProbeScoreStore.put)
    drop = _awaitable(ProbeScoreStore.drop)


class AsyncProfileStore(AsyncFacade[ProfileStore]):
    """`ProfileStore`, to be awaited."""

    read_all = _awaitable(ProfileStore.read_all)
    put = _awaitable(ProfileStore.put)
    drop = _awaitable(ProfileStore.drop)


class AsyncRegistry(AsyncFacade[Registry]):
    """`Registry` and its parts, to be awaited."""

    def __init__(self, blocking: Registry) -> None:
        super().__init__(blocking)
        self.journal = AsyncJournal(blocking.journal)
        self.jobs = AsyncJobStore(blocking.jobs)
        self.leases = AsyncLeases(blocking.leases)
        self.scores = AsyncProbeScoreStore(blocking.scores)
        self.profiles = AsyncProfileStore(blocking.profiles)

    close = _awaitable(Registry.close)
    require_name_free = _awaitable(Registry.require_name_free)
    create_adapter = _awaitable(Registry.create_adapter)
    commit_version = _awaitable(Registry.commit_version)
    store_unserved = _awaitable(Registry.store_unserved)
    mark_applied = _awaitable(Registry.mark_applied)
    rollback = _awaitable(Registry.rollback)
    list_head_moves = _awaitable(Registry.list_head_moves)
    get_adapter = _awaitable(Registry.get_adapter)
    list_adapters = _awaitable(Registry.list_adapters)
    find_damaged_adapters = _awaitable(Registry.find_damaged_adapters)
    delete_adapter = _awaitable(Registry.delete_adapter)
    stop_serving = _awaitable(Registry.stop_serving)
    finish_deletions = _awaitable(Registry.finish_deletions)
    remove_unused_files = _awaitable(Registry.remove_unused_files)
    get_version = _awaitable(Registry.get_version)
    list_versions = _awaitable(Registry.list_versions)
    list_lineage = _awaitable(Registry.list_lineage)
    list_unfinished_jobs = _awaitable(Registry.list_unfinished_jobs)
    load_files = _awaitable(Registry.load_files)

    async def run(
        self, function: Callable[Concatenate[Registry, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run a function that takes the blocking registry first, such as `lineage.list_ancestors`."""
        return await in_thread(function, self.blocking, *args, **kwargs)
