"""Ctrl-C and SIGTERM: the first one stops the verb in order, the second one at once."""

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Handles both signals in the same way while a command runs."""

    def __init__(self) -> None:
        self.received = 0
        self._task: asyncio.Task[None] | None = None
        self._stop: Callable[[], None] | None = None

    @contextmanager
    def install_handlers(self) -> Iterator[None]:
        """Installs the handlers, and restores the previous ones at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may install handlers
            return
        previous = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def call_on_stop(self, stop: Callable[[], None]) -> Iterator[None]:
        """While this lasts, the first signal calls `stop` instead of cancelling the verb."""
        self._stop = stop
        try:
            yield
        finally:
            self._stop = None

    def run(self, verb: Coroutine[Any, Any, None]) -> None:
        """Runs a verb; raises `KeyboardInterrupt` if a signal stopped it."""
        try:
            asyncio.run(self._run_task(verb))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None

    async def _run_task(self, verb: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.current_task()
        try:
            await verb
        finally:
            self._task = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.received += 1
        task, stop, self._stop = self._task, self._stop, None
        if task is None or (stop is None and task.cancelling()):
            raise KeyboardInterrupt
        # The loop waits in `select`, which only a callback from another thread ends.
        task.get_loop().call_soon_threadsafe(stop if stop is not None else task.cancel)


INTERRUPTS = Interrupts()
"""The handlers of this program: a process has one set of signal handlers."""
