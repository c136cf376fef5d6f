"""How much memory there is; what does not fit it is refused before it is taken, in numbers."""

import ctypes
import json
import math
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ouroboros.domain.errors import OutOfMemory

_MEMINFO = Path("/proc/meminfo")
_GROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


KEPT = 1 << 30
"""Bytes that have been freed and are kept for what comes next, at most."""

_MALLOPT = {-8: 1, -3: 32 << 20, -2: 64 << 20, -1: KEPT}
"""GNU's: one arena; larger pieces come from the system, if no freed one is large enough; so much more is
asked for at once; and so much is kept at the end. <malloc.h>, mallopt(3)."""


_TOLD = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


class _Allocated(ctypes.Structure):
    """What mallinfo2(3) tells; `fordblks` are bytes that are kept and free."""

    _fields_ = [(name, ctypes.c_size_t) for name in _TOLD]


def keep_freed() -> None:
    """Let this process keep memory that it has freed, where the C library is GNU's.

    Every pass asks for the same hundreds of megabytes again. To get them from the system each time, page
    by page, takes a third of a small pass's time. Environments that set `MALLOC_...` have their way.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version") and not any(n.startswith("MALLOC_") for n in os.environ):
        for option, value in _MALLOPT.items():
            libc.mallopt(option, value)


def kept_bytes() -> int:
    """What this process has freed and keeps; 0 where the C library does not tell."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _Allocated
    return libc.mallinfo2().fordblks


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
    free = free if "max" in (most, taken) else min(free, int(most) - int(taken))
    return free + kept_bytes()


def format_bytes(count: int) -> str:
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
        raise OutOfMemory(
            f"{what} takes {format_bytes(needed)} of memory; {format_bytes(free)} are free.", hint=hint
        )


@contextmanager
def oom_as_error(device: torch.device, predicted: int | None, hint: str) -> Iterator[None]:
    """Running out of memory, whoever notices it, becomes one `OutOfMemory` that tells the numbers."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "alloc" not in str(error).lower():
            raise
        free = free_bytes(device)
        told = [f"{format_bytes(predicted)} were predicted"] if predicted is not None else []
        told += [f"{format_bytes(free)} are free"] if free is not None else []
        first = (str(error).strip().splitlines() or ["no more can be had"])[0]
        raise OutOfMemory(f"Out of memory ({', '.join(told)}): {first}", hint=hint) from error
