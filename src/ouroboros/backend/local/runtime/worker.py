"""The one thread that touches tensors, and how long work shares it.

Work is a generator that yields after each small step: an optimizer step, a decoded token. The worker
takes one step of a piece of work at a time, so that a training and a conversation go on side by side (in
which order, `FairScheduler` says), and a cancelled piece of work ends at its next step wherever it is.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from ouroboros.backend.local.runtime.scheduler import FairScheduler
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import BackendError

E = TypeVar("E")
T = TypeVar("T")
Steps: TypeAlias = Generator[E | None, None, T]
"""Work: yields after each step, an event `E` or None if there is nothing to tell; returns a `T`."""


@dataclass(frozen=True)
class _Work(Generic[E, T]):
    steps: Steps[E, T]
    on_event: Callable[[E], None] | None
    cancel: CancellationToken
    done: "Future[T]"
    learning: bool = False


IDLE_SECONDS = 10.0
"""Without work for so long, the worker rests."""


class Worker:
    """A thread that runs work step by step, in turn, `prepare` before each step. Started by its first
    work, ended by `close`."""

    def __init__(
        self,
        name: str,
        prepare: Callable[[], None] = lambda: None,
        rest: Callable[[], None] = lambda: None,
    ) -> None:
        self._inbox: queue.SimpleQueue[_Work[Any, Any] | None] = queue.SimpleQueue()
        self._prepare, self._rest = prepare, rest
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._closed = False

    async def run(
        self,
        steps: Steps[E, T],
        on_event: Callable[[E], None] | None = None,
        cancel: CancellationToken | None = None,
        *,
        learning: bool = False,
    ) -> T:
        """Run work to its end. Cancelling the task stops it at its next step, and waits for that.

        `learning` gives way to other work, as `FairScheduler` says.
        """
        token = cancel or CancellationToken()
        done: Future[T] = Future()
        self._submit(_Work(steps, on_event, token, done, learning))
        waiting = asyncio.wrap_future(done)
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            token.cancel()
            await asyncio.wait([waiting])
            waiting.exception()  # seen: the caller is told by its own cancellation
            raise

    def run_detached(self, steps: Steps[Any, Any]) -> None:
        """Run work that tells nobody of its end. May be called from the worker's own thread."""
        self._submit(_Work(steps, None, CancellationToken(), Future()))

    def close(self) -> None:
        """End the thread after the step in progress; unfinished work fails with `BackendError`."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._inbox.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _submit(self, work: _Work[Any, Any]) -> None:
        with self._lock:
            if self._closed:
                raise BackendError("The backend is closed.", hint="Open the engine again.")
            if self._thread.ident is None:
                self._thread.start()
            self._inbox.put(work)

    def _run_loop(self) -> None:
        scheduler: FairScheduler[_Work[Any, Any]] = FairScheduler()
        while self._receive_work(scheduler):
            work, learning = scheduler.pop_next()
            started = time.perf_counter()
            self._prepare()
            unfinished = _run_step(work)
            scheduler.record_step(time.perf_counter() - started, learning)
            if unfinished:
                scheduler.add(work, learning)
        for work in scheduler:
            work.steps.close()
            work.done.set_exception(
                BackendError("The backend was closed.", hint="Open the engine again.")
            )

    def _receive_work(self, scheduler: FairScheduler[_Work[Any, Any]]) -> bool:
        """Take in new work, waiting when there is nothing else to do; False once closed.

        After `IDLE_SECONDS` without work the worker rests, once.
        """
        patience: float | None = IDLE_SECONDS
        while True:
            try:
                work = self._inbox.get(block=not scheduler, timeout=patience)
            except queue.Empty:
                if scheduler:
                    return True
                self._rest()
                patience = None
                continue
            if work is None:
                return False
            scheduler.add(work, work.learning)


def _run_step(work: _Work[Any, Any]) -> bool:
    """Take one step; whether there are more."""
    try:
        work.cancel.raise_if_cancelled()
        event = next(work.steps)
        if work.on_event is not None and event is not None:
            work.on_event(event)
        return True
    except StopIteration as end:
        work.done.set_result(end.value)
    except BaseException as error:  # handed to whoever waits, whatever it is
        work.steps.close()
        work.done.set_exception(error)
    return False
