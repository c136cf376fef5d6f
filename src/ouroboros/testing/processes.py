"""Running one function many times at once, in threads and in processes; killing one in the middle."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

T = TypeVar("T")


def run_in_threads(count: int, function: Callable[[int], T]) -> list[T]:
    """`function(0)`, `function(1)`, ... at once; results in that order, the first error raised."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def run_in_processes(count: int, function: Callable[..., T], *args: Any) -> list[T]:
    """`function(n, *args)` for each n in its own fresh process, at once; results in order.

    The function and its arguments must be picklable: a module's own function, not a lambda.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [f.result() for f in [pool.submit(function, n, *args) for n in range(count)]]


class ChildProcess:
    """A function that runs in its own fresh process, reports to us, and can be killed in the middle."""

    def __init__(self, function: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._reports, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=function, args=(sender.send, *args))
        self._process.start()
        sender.close()

    def receive(self) -> Any:
        """What it says next; `EOFError` if it ended instead."""
        return self._reports.recv()

    def kill(self) -> list[Any]:
        """SIGKILL, wherever it is; returns what it had said besides, up to its end."""
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
    """`function(report, *args)` in a process that is killed at the end, if it was not before."""
    running = ChildProcess(function, *args)
    try:
        yield running
    finally:
        running.kill()


def run_until_killed(report_count: int, function: Callable[..., None], *args: Any) -> list[Any]:
    """All that `function(report, *args)` reported until it was killed, soon after so many reports."""
    with child_process(function, *args) as running:
        return [running.receive() for _ in range(report_count)] + running.kill()
