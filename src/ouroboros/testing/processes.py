"""Running one function many times at once, in threads and in fresh processes."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def in_threads(count: int, function: Callable[[int], T]) -> list[T]:
    """`function(0)`, `function(1)`, ... at once; results in that order, the first error raised."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(function, range(count)))


def in_processes(count: int, function: Callable[..., T], *args: Any) -> list[T]:
    """`function(n, *args)` for each n in its own fresh process, at once; results in order.

    The function and its arguments must be picklable: a module's own function, not a lambda.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context) as pool:
        return [f.result() for f in [pool.submit(function, n, *args) for n in range(count)]]
