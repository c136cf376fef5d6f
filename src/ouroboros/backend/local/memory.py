"""How much memory there is; what does not fit it is refused before it is taken, in numbers."""

import json
import math
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ouroboros.domain.errors import OutOfMemory

_MEMINFO = Path("/proc/meminfo")
_GROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had now; None where the system does not tell."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    if not _MEMINFO.is_file():
        return None
    facts = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(facts["MemAvailable"].split()[0]) * 1024
    most, taken = (p.read_text().strip() if p.is_file() else "max" for p in _GROUP)
    return free if "max" in (most, taken) else min(free, int(most) - int(taken))


def size(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def weight_count(files: Sequence[Path]) -> int:
    """How many numbers safetensors files hold, by their headers alone."""
    return sum(map(_elements, files))


def _elements(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def require_room(what: str, needed: int, free: int | None, hint: str) -> None:
    """Raise `OutOfMemory` for what would not fit."""
    if free is not None and needed > free:
        raise OutOfMemory(f"{what} takes {size(needed)} of memory; {size(free)} are free.", hint=hint)


@contextmanager
def explained(device: torch.device, predicted: int | None, hint: str) -> Iterator[None]:
    """Running out of memory, whoever notices it, becomes one `OutOfMemory` that tells the numbers."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error).lower():
            raise
        free = free_bytes(device)
        told = [f"{size(predicted)} were predicted"] if predicted is not None else []
        told += [f"{size(free)} are free"] if free is not None else []
        first = (str(error).strip().splitlines() or ["no more can be had"])[0]
        raise OutOfMemory(f"Out of memory ({', '.join(told)}): {first}", hint=hint) from error
