"""Locks on adapters: one writing task in this program, and one program among all that share a store."""

import asyncio
from collections import defaultdict
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

from ouroboros.domain.errors import Cancelled, OuroborosError
from ouroboros.domain.names import AdapterId
from ouroboros.registry.leases import DURATION, Leases
from ouroboros.registry.threads import in_thread
from ouroboros.stores.metadata.base import Fenced

RETRY_SECONDS = 0.05
"""Seconds between attempts to acquire a lease that another program holds."""


class Locks(Protocol):
    """`async with locks[adapter]:` waits for the lock and holds it."""

    def __getitem__(self, adapter: AdapterId, /) -> AbstractAsyncContextManager[object]: ...


class AdapterLocks:
    """Locks by adapter: an `asyncio.Lock` first, then the lease, which is renewed while it is held."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._locks: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)

    def __getitem__(self, adapter: AdapterId, /) -> "AdapterLock":
        return AdapterLock(self._locks[adapter], self._leases, adapter)


class AdapterLock:
    """The lock of one adapter, as an asynchronous context manager."""

    def __init__(self, lock: asyncio.Lock, leases: Leases, adapter: AdapterId) -> None:
        self._lock = lock
        self._leases = leases
        self._adapter = adapter

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            while not await in_thread(self._leases.acquire, self._adapter):
                await asyncio.sleep(RETRY_SECONDS)
        except BaseException:
            self._lock.release()
            raise
        self._renewal = asyncio.create_task(self._renew())

    async def __aexit__(self, _: object, error: BaseException | None, *__: object) -> None:
        """Release the lock. An error under a lost lease is `Fenced`: what it speaks of is gone."""
        try:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])
            fenced = None
            if isinstance(error, OuroborosError) and not isinstance(error, Cancelled):
                fenced = await self._find_fence()
            with suppress(OuroborosError):  # the lease will expire
                await in_thread(self._leases.release, self._adapter)
        finally:
            self._lock.release()
        if fenced is not None:
            raise fenced from error

    async def _find_fence(self) -> Fenced | None:
        try:
            await in_thread(self._leases.require_current, self._adapter)
        except Fenced as fenced:
            return fenced
        except OuroborosError:
            return None  # the store fails: the first error says more
        return None

    async def _renew(self) -> None:
        """Renew until the lease is released, or lost: then what this holder writes is refused."""
        is_holder = True
        while is_holder:
            await asyncio.sleep(DURATION.total_seconds() / 3)
            with suppress(OuroborosError):  # retried
                is_holder = await in_thread(self._leases.renew, self._adapter)
