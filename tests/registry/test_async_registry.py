"""The facade for event loops offers every method of the blocking registry, under the same name."""

import asyncio
import inspect
import threading

import pytest

from ouroboros.domain.names import AdapterId
from ouroboros.registry.async_registry import AsyncFacade, AsyncRegistry
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry

NOT_AWAITED = {
    "Journal": {"read_all", "find_damage", "find_damaged_events_of"},
    "Leases": {"guards", "require_unfenced"},
}
"""What a thread cannot finish in one call (iterators, which read as they are walked), and what reads no
store."""


def public_methods(kind: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(kind, inspect.isfunction) if name[0] != "_"}


def facades(registry: Registry) -> list[AsyncFacade]:
    whole = AsyncRegistry(registry)
    return [whole, *(part for part in vars(whole).values() if isinstance(part, AsyncFacade))]


def test_every_method_can_be_awaited(registry: Registry):
    assert len(facades(registry)) == 6
    for facade in facades(registry):
        kind = type(facade.blocking)
        blocking = public_methods(kind) - NOT_AWAITED.get(kind.__name__, set())
        assert public_methods(type(facade)) - {"run"} == blocking


def test_an_awaited_method_keeps_its_documentation(registry: Registry):
    assert AsyncRegistry.commit_version.__doc__ == Registry.commit_version.__doc__


async def test_work_runs_beside_the_event_loop(registry: Registry, monkeypatch):
    ran_in: list[threading.Thread] = []
    read = registry.journal.read
    monkeypatch.setattr(
        registry.journal,
        "read",
        lambda *args, **named: ran_in.append(threading.current_thread()) or read(*args, **named),
    )
    assert await AsyncRegistry(registry).journal.read(AdapterId("tickets"), after=0) == []
    assert ran_in != [threading.current_thread()]


async def test_work_that_has_begun_is_finished(registry: Registry, monkeypatch):
    started, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def wait(adapter: AdapterId) -> int:
        started.set()
        may_end.wait()
        ended.set()
        return 0

    monkeypatch.setattr(registry.journal, "last_seq", wait)
    call = asyncio.create_task(AsyncRegistry(registry).journal.last_seq(AdapterId("tickets")))
    await asyncio.to_thread(started.wait)
    call.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_functions_that_take_a_registry_can_be_awaited(registry: Registry):
    assert await AsyncRegistry(registry).run(check_store) == check_store(registry)
