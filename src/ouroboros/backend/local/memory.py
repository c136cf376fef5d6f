"""How much memory there is, and how much a model or a pass over it will take, before it is taken."""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.errors import BackendError, ModelError

_MEMINFO = Path("/proc/meminfo")
_GROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))
_GIB = 1 << 30


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had now; None where the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not _MEMINFO.is_file():
        return None
    facts = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(facts["MemAvailable"].split()[0]) * 1024
    most, taken = (p.read_text().strip() if p.is_file() else "max" for p in _GROUP)
    return free if "max" in (most, taken) else min(free, int(most) - int(taken))


def weight_bytes(files: Sequence[Path], dtype: torch.dtype) -> int:
    """What the weights in safetensors files take in `dtype`, by the files' headers alone."""
    return sum(_elements(path) for path in files) * dtype.itemsize


def _elements(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def require_room(name: str, needed: int, free: int | None) -> None:
    """Raise `ModelError` for a model that would not fit."""
    if free is not None and needed > free:
        raise ModelError(
            f"The base model {name!r} takes {needed / _GIB:.1f} GiB of memory; {free / _GIB:.1f} GiB "
            "are free.",
            hint='Use dtype "bfloat16", quantize it, close other programs, or take a smaller model.',
        )


def training_bytes_per_token(base: BaseModel, itemsize: int) -> int:
    """What a training pass keeps per token, at most: a labelled one, with adapters on every layer.

    Each linear layer's input and output, as much again for norms, activation and attention, and the
    logits in float32 with their gradient.
    """
    layers = sum(s.inputs + s.outputs for s in base.linears) * 2 * itemsize
    return layers + 3 * 4 * base.fingerprint.vocabulary


def fitting_tokens(wanted: int, per_token: int, free: int | None) -> int:
    """The token budget, cut to what half of the free memory holds, yet never under 64."""
    return wanted if free is None else max(64, min(wanted, free // 2 // per_token))


@contextmanager
def explained(device: torch.device) -> Iterator[None]:
    """Running out of memory becomes one `BackendError` that tells the numbers."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error).lower():
            raise
        free = free_bytes(device)
        left = "" if free is None else f" with {free / _GIB:.2f} GiB free"
        raise BackendError(
            f"Out of memory{left}: {str(error).strip().splitlines()[0]}",
            hint="Use shorter rows or prompts, fewer requests at once, or a smaller model.",
        ) from error
