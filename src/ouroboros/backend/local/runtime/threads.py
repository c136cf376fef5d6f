"""How many threads a pass runs on.

A pass is hundreds of parallel loops. At the end of each its threads wait for each other, and for the
next they are woken. Where the loops are short that takes longer than the loops themselves, and one
thread is up to twice as fast as two (docs/decisions/0007-training-passes.md, "Threads").
"""

import torch

from ouroboros.domain.base_model import BaseModel

SMALL_LAYER_PRODUCTS = 150e6
"""Up to so many multiplications in a layer, one thread is the faster."""

WEIGHT_FETCH_TOKENS = 60
"""Fetching a layer's weights from memory takes as long as multiplying so many tokens by them."""


class Threads:
    """The threads that there are, and how many of them a pass takes: all, or one."""

    def __init__(self, max_threads: int | None = None) -> None:
        self.max_threads = max_threads or torch.get_num_threads()

    def use_all(self) -> None:
        torch.set_num_threads(self.max_threads)

    def set_for_pass(self, base: BaseModel, tokens: int) -> None:
        """Set as many as suit a pass over so many tokens, and its way back.

        How many depends on the pass alone, never on the machine's load: sums differ in their last bits
        with the number of threads.
        """
        weights = sum(s.inputs * s.outputs for s in base.linears) / max(base.layers, 1)
        torch.set_num_threads(
            1 if weights * (tokens + WEIGHT_FETCH_TOKENS) <= SMALL_LAYER_PRODUCTS else self.max_threads
        )
