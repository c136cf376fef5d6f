"""The worker: one thread, shared step by step."""

import asyncio
import queue
import threading

import pytest

from ouroboros.backend.local.runtime import worker as worker_module
from ouroboros.backend.local.runtime.worker import Worker
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import BackendError, Cancelled


@pytest.fixture
def worker():
    worker = Worker("test")
    yield worker
    worker.close()


def counting(n, log, name=""):
    for i in range(n):
        log.append(f"{name}{i}")
        yield i
    return f"{name}done"


async def test_work_returns_its_result_and_tells_its_events(worker):
    events = []
    assert await worker.run(counting(3, []), events.append) == "done"
    assert events == [0, 1, 2]


async def test_two_pieces_of_work_take_turns(worker):
    gate = threading.Event()

    def waiting():
        gate.wait()
        yield

    log = []
    first = asyncio.create_task(worker.run(waiting()))
    runs = [asyncio.create_task(worker.run(counting(3, log, name))) for name in "ab"]
    await asyncio.sleep(0.05)
    gate.set()
    await asyncio.gather(first, *runs)
    assert log == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_an_error_reaches_the_caller_and_the_worker_lives_on(worker):
    def fail():
        yield
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await worker.run(fail())
    assert await worker.run(counting(1, [])) == "done"


async def test_a_cancelled_token_stops_within_one_step(worker):
    token = CancellationToken()
    log = []

    def cancel_at_two(event):
        if event == 2:
            token.cancel()

    with pytest.raises(Cancelled):
        await worker.run(counting(100, log), cancel_at_two, token)
    assert log == ["0", "1", "2"]


async def test_a_cancelled_task_stops_its_work_before_it_returns(worker):
    started, stopped = threading.Event(), threading.Event()

    def endless():
        try:
            while True:
                started.set()
                yield
        finally:
            stopped.set()

    task = asyncio.create_task(worker.run(endless()))
    await asyncio.to_thread(started.wait)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()


async def test_the_loop_is_not_blocked_while_work_runs(worker):
    started, release = threading.Event(), threading.Event()

    def blocking():
        started.set()
        release.wait()
        yield

    task = asyncio.create_task(worker.run(blocking()))
    while not started.is_set():
        await asyncio.sleep(0.001)
    release.set()  # only reachable because the loop still turns
    await task


async def test_closing_fails_what_is_unfinished(worker):
    started = threading.Event()

    def endless():
        while True:
            started.set()
            yield

    task = asyncio.create_task(worker.run(endless()))
    await asyncio.to_thread(started.wait)
    await asyncio.to_thread(worker.close)
    with pytest.raises(BackendError, match="closed"):
        await task
    with pytest.raises(BackendError, match="closed"):
        await worker.run(counting(1, []))


async def test_the_worker_rests_after_each_spell_of_work(monkeypatch):
    monkeypatch.setattr(worker_module, "IDLE_SECONDS", 0.0)
    rests: queue.SimpleQueue[int] = queue.SimpleQueue()
    worker, works = Worker("test", rest=lambda: rests.put(threading.get_ident())), 3
    for _ in range(works):
        await worker.run(counting(1, []))
        assert await asyncio.to_thread(rests.get, timeout=60) != threading.get_ident()
    worker.close()
    assert rests.qsize() <= works + 1  # it may have rested before the first work came
