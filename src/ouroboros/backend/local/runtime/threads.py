"""How many threads a pass runs on, and how they share it.

A large pass over several rows is divided by rows: each thread runs its rows through all layers and back,
and PyTorch uses one thread inside each operation. The threads meet once at the end of either way, so a
thread that loses its processor to another program delays its own rows only. A smaller pass over several
rows runs on one thread, since Python's lock passes between threads at each operation.

Threads inside the operations (OpenMP's) meet at the end of each of a pass's thousands of loops. They
serve passes over one row and the decoding of answers, if they wait briefly for each other (`openmp.py`)
and the loops are long (docs/decisions/0007-training-passes.md, "Threads").
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cached_property
from typing import TypeVar

import torch

from ouroboros.backend.local.runtime import openmp
from ouroboros.domain.base_model import BaseModel

T = TypeVar("T")

SMALL_LAYER_PRODUCTS = 150e6
"""Up to so many multiplications in a layer, one thread is the faster."""

SHARD_LAYER_PRODUCTS = 600e6
"""Multiplications in a layer that are worth a thread of their own: where operations are short, threads
wait for Python's lock instead of computing."""

WEIGHT_FETCH_TOKENS = 60
"""Fetching a layer's weights from memory takes as long as multiplying so many tokens by them."""


class Threads:
    """The threads that there are, and how many of them a pass takes."""

    def __init__(self, max_threads: int | None = None) -> None:
        self.max_threads = max_threads or torch.get_num_threads()
        self._in_shard = threading.local()

    def use_all(self) -> None:
        """Let operations use all threads, or one where OpenMP's would spin while they wait."""
        torch.set_num_threads(self.max_threads if openmp.waits_briefly() else 1)

    def use_one(self) -> None:
        """Let operations use the calling thread only."""
        torch.set_num_threads(1)

    def set_for_pass(self, base: BaseModel, tokens: int) -> None:
        """Set as many as suit an undivided pass over so many tokens, and its way back.

        How many depends on the pass alone, never on the machine's load: sums differ in their last bits
        with the number of threads.
        """
        if getattr(self._in_shard, "value", False):
            return
        if _products(base, tokens + WEIGHT_FETCH_TOKENS) <= SMALL_LAYER_PRODUCTS:
            torch.set_num_threads(1)
        else:
            self.use_all()

    def split_rows(self, base: BaseModel, tokens: Sequence[int]) -> list[list[int]]:
        """Divide the rows of a pass, which run so many tokens, into shards of about equal length.

        As with `set_for_pass`, the shards depend on the pass alone. Each lists its rows in order.
        """
        affordable = int(_products(base, sum(tokens)) / SHARD_LAYER_PRODUCTS)
        count = max(1, min(self.max_threads, len(tokens), affordable))
        shards: list[list[int]] = [[] for _ in range(count)]
        totals = [0] * count
        # The longest row first, each to the shard that has the fewest tokens.
        for row in sorted(range(len(tokens)), key=lambda i: -tokens[i]):
            shortest = totals.index(min(totals))
            shards[shortest].append(row)
            totals[shortest] += tokens[row]
        return [sorted(shard) for shard in shards]

    def run_shards(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """Run each task on a thread, the first on the caller's. All have ended when this returns.

        Operations inside a task run on its thread alone. Raises what the first failed task raised.
        """
        futures = [self._pool.submit(self._run_shard, task) for task in tasks[1:]]
        try:
            first = self._run_shard(tasks[0])
        finally:
            wait(futures)
        return [first, *(future.result() for future in futures)]

    def close(self) -> None:
        """End the threads."""
        if "_pool" in self.__dict__:
            self.__dict__.pop("_pool").shutdown()

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(max(1, self.max_threads - 1), thread_name_prefix="ouroboros-shard")

    def _run_shard(self, task: Callable[[], T]) -> T:
        torch.set_num_threads(1)  # of the calling thread only
        self._in_shard.value = True
        try:
            return task()
        finally:
            self._in_shard.value = False


def _products(base: BaseModel, tokens: int) -> float:
    """Multiplications that so many tokens take in a layer."""
    weights = sum(s.inputs * s.outputs for s in base.linears) / max(base.layers, 1)
    return weights * tokens
