"""What a model computes in: bfloat16 where this machine multiplies it faster, as measured once.

A processor's features do not tell it all: some emulate what they list, and PyTorch brings fast products
for some that list nothing. So two products are timed, and the answer is kept for this processor and
release of PyTorch: a training that is made again is to compute as it did.
"""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ouroboros.cache import cache_folder
from ouroboros.domain.errors import InvalidConfig

MIN_GAIN = 1.2
"""bfloat16 is taken from this ratio on: it rounds to three digits, so it has to pay."""

_ROWS, _WIDTH = 128, 1024
_REPEATS = 7


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """The type of that name; "auto" is bfloat16 where `device` multiplies it faster, else float32."""
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if name in dtypes:
        return dtypes[name]
    if name != "auto":
        raise InvalidConfig(f"dtype is {name!r}.", hint='Use "auto", "float32" or "bfloat16".')
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    gain = load_or_measure(cache_folder() / "precision.json", describe_machine(), measure_bfloat16_gain)
    return torch.bfloat16 if gain >= MIN_GAIN else torch.float32


def load_or_measure(file: Path, machine: str, measure: Callable[[], float]) -> float:
    """What `measure` found on this machine, now or before; a file that is of no use is done without."""
    gains = _read_gains(file)
    if machine not in gains:
        gains = {**gains, machine: measure()}
        _write_gains(file, gains)
    return gains[machine]


def measure_bfloat16_gain() -> float:
    """How many times faster than in float32 a product is: [128, 1024] by [1024, 1024]."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(_ROWS, _WIDTH, dtype=dtype)
        weight = torch.ones(_WIDTH, _WIDTH, dtype=dtype)
        _time_product(x, weight)  # the first product of a kind sets its kernels up
        seconds[dtype] = median(_time_product(x, weight) for _ in range(_REPEATS))
    return seconds[torch.float32] / seconds[torch.bfloat16]


def _time_product(x: Tensor, weight: Tensor) -> float:
    started = time.perf_counter()
    torch.nn.functional.linear(x, weight)
    return time.perf_counter() - started


def describe_machine() -> str:
    """The processor, what PyTorch uses of it, and PyTorch's release."""
    model = platform.processor() or platform.machine()
    with suppress(OSError), Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        model = next(names, model)
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"


def _read_gains(file: Path) -> Mapping[str, float]:
    with suppress(OSError, ValueError, AttributeError, TypeError):
        return {name: float(gain) for name, gain in json.loads(file.read_text("utf-8")).items()}
    return {}


def _write_gains(file: Path, gains: Mapping[str, float]) -> None:
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_name(f"{file.name}.{os.getpid()}")
        draft.write_text(json.dumps(gains, indent=2), "utf-8")
        draft.replace(file)
