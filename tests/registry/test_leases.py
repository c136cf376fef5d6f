"""One writer per adapter: others wait while it lives, and take over when it does not."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta

import pytest

from ouroboros.domain.names import AdapterId
from ouroboros.registry import leases
from ouroboros.registry.adapter_lock import AdapterLocks
from ouroboros.registry.leases import Leases
from ouroboros.registry.registry import Registry

TICKETS, OTHER = AdapterId("tickets"), AdapterId("other")

HOLDER = """
import sys, time
from ouroboros.domain.names import AdapterId
from ouroboros.registry.leases import Leases
from ouroboros.stores.open import open_metadata
assert Leases(open_metadata(sys.argv[1])).acquire(AdapterId("tickets"))
print("held", flush=True)
time.sleep(600)
"""


def test_a_lease_is_held_by_one_and_renewed_by_it(registry: Registry) -> None:
    one, two = Leases(registry.stores[0]), Leases(registry.stores[0])
    assert one.acquire(TICKETS)
    assert not two.acquire(TICKETS)
    assert two.acquire(OTHER)
    assert one.acquire(TICKETS)
    two.release(TICKETS)
    assert one.is_held(TICKETS)
    one.release(TICKETS)
    assert not one.is_held(TICKETS)
    assert two.acquire(TICKETS)


def test_a_lease_that_is_not_renewed_ends(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "DURATION", timedelta(0))
    one, two = Leases(registry.stores[0]), Leases(registry.stores[0])
    assert one.acquire(TICKETS)
    assert two.acquire(TICKETS)


def test_a_dead_holders_lease_is_taken_over_at_once(
    open_registry: Callable[[], Registry], registry: Registry, tmp_path
) -> None:
    url = f"sqlite:///{tmp_path}/metadata.db"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert not registry.leases.acquire(TICKETS)
        holder.kill()
    assert registry.leases.acquire(TICKETS)


async def test_turns_follow_one_another_across_programs(registry: Registry) -> None:
    """Two of them here, each with its own leases as two programs have."""
    programs = [AdapterLocks(Leases(registry.stores[0])) for _ in range(2)]
    inside, most = 0, 0

    async def write(turns: AdapterLocks) -> None:
        nonlocal inside, most
        async with turns[TICKETS]:
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(write(turns) for turns in programs * 3))
    assert most == 1
    assert not registry.leases.is_held(TICKETS)


async def test_whoever_stops_waiting_leaves_the_turn_to_others(registry: Registry) -> None:
    mine, other = AdapterLocks(registry.leases), Leases(registry.stores[0])
    assert other.acquire(TICKETS)

    async def write() -> None:
        async with mine[TICKETS]:
            pass

    waiting = asyncio.create_task(write())
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    other.release(TICKETS)
    await write()
