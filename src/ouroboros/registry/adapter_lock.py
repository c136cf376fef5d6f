"""Turns at writing to an adapter: one task of this program, one program of all that share a store."""

import asyncio
from collections import defaultdict
from contextlib import AbstractAsyncContextManager, suppress
from typing import Protocol

from ouroboros.domain.errors import OuroborosError
from ouroboros.domain.names import AdapterId
from ouroboros.registry.leases import LASTS, Leases
from ouroboros.registry.threads import in_thread

AGAIN = 0.05
"""Seconds until a lease that another program holds is asked for again."""


class Locks(Protocol):
    """`async with turns[adapter]:` waits for the turn and holds it."""

    def __getitem__(self, adapter: AdapterId, /) -> AbstractAsyncContextManager[object]: ...


class AdapterLocks:
    """Takes the lock of an adapter, then its lease, which is renewed until the turn is over."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._locks: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)

    def __getitem__(self, adapter: AdapterId, /) -> "AdapterLock":
        return AdapterLock(self._locks[adapter], self._leases, adapter)


class AdapterLock:
    def __init__(self, lock: asyncio.Lock, leases: Leases, adapter: AdapterId) -> None:
        self._lock = lock
        self._leases = leases
        self._adapter = adapter

    async def __aenter__(self) -> None:
        await self._lock.acquire()
        try:
            while not await in_thread(self._leases.take, self._adapter):
                await asyncio.sleep(AGAIN)
        except BaseException:
            self._lock.release()
            raise
        self._renewing = asyncio.create_task(self._renew())

    async def __aexit__(self, *_: object) -> None:
        try:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
            with suppress(OuroborosError):  # it will end by itself
                await in_thread(self._leases.release, self._adapter)
        finally:
            self._lock.release()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(LASTS.total_seconds() / 3)
            with suppress(OuroborosError):  # tried again; if it is lost, compare-and-set decides
                await in_thread(self._leases.take, self._adapter)
