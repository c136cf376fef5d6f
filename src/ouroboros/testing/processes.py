"""Run a function concurrently in threads or processes, and kill a process at any point."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_threads(count: int, function: Callable[[int], T]) -> list[T]:
    """Run `function(0)`, `function(1)`, ... concurrently. Returns the results in order, or raises the
    first error."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def run_in_processes(count: int, function: Callable[..., T], *args: Any) -> list[T]:
    """Run `function(n, *args)` for each n concurrently, each in a new process. Returns results in order.

    The function and its arguments must be picklable: a module-level function, not a lambda.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [f.result() for f in [pool.submit(function, n, *args) for n in range(count)]]


class ChildProcess:
    """A function in a new process that sends reports to this one and can be killed at any point."""

    def __init__(self, function: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._reports, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=function, args=(sender.send, *args))
        self._process.start()
        sender.close()

    def receive(self) -> Any:
        """Return its next report. Raises `EOFError` if the process ended."""
        return self._reports.recv()

    def kill(self) -> list[Any]:
        """Send SIGKILL and return the remaining reports."""
        self._process.kill()
        self._process.join()
        return list(self._receive_remaining())

    def _receive_remaining(self) -> Iterator[Any]:
        try:
            while True:
                yield self._reports.recv()
        except EOFError:
            self._reports.close()
        except OSError:  # closed by an earlier kill
            return


@contextmanager
def child_process(function: Callable[..., None], *args: Any) -> Iterator[ChildProcess]:
    """Run `function(report, *args)` in a process that is killed when the context ends."""
    running = ChildProcess(function, *args)
    try:
        yield running
    finally:
        running.kill()


def run_until_killed(report_count: int, function: Callable[..., None], *args: Any) -> list[Any]:
    """Run `function(report, *args)`, kill it after some reports, and return all its reports."""
    with child_process(function, *args) as running:
        return [running.receive() for _ in range(report_count)] + running.kill()
