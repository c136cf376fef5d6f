"""What a job has to multiply at the least, and how fast this machine multiplies."""

import time
from collections.abc import Sequence
from typing import Any


def operations(
    runtime: Any, rows: Sequence[tuple[str, str]], epochs: int, rank: int, targets: Any
) -> int:
    """FLOPs of training, counted as 2 per multiplication with an addition.

    Per token 4N: forward, and the way back to the inputs, for the N weights of the base's layers, which
    are frozen; 6 for each weight of the adapter; attention's two products, forward and twice back; and
    4VD for the head at each labelled token alone.
    """
    base = runtime.base
    layers = [s for s in base.linears if "lm_head" not in s.path]
    weights = sum(s.inputs * s.outputs for s in layers)
    adapter = rank * sum(s.inputs + s.outputs for s in layers if s.name in targets)
    head = 4 * runtime.model.config.vocab_size * base.width
    total = 0
    for row in rows:
        encoded = runtime.tokenizer.encode_pair(*row)
        tokens, labels = len(encoded), len(encoded.output)
        attention = 6 * base.layers * base.width * tokens  # causal: half of 12
        total += tokens * (4 * weights + 6 * adapter + attention) + labels * head
    return total * epochs


def peak(dtype: Any, seconds: float = 2.0) -> float:
    """FLOP/s of square products of 1,024, the best of what fits into so many seconds."""
    import torch

    a, b = (torch.randn(1024, 1024).to(dtype) for _ in range(2))
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        for _ in range(4):
            torch.mm(a, b)
        best = max(best, 8 * 1024**3 / (time.perf_counter() - started))
    return best
