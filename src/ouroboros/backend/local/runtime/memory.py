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
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"))


MAX_FREED_BYTES = 1 << 30
"""Bytes that have been freed and are kept for what comes next, at most."""

_MALLOC_OPTIONS = {-8: 1, -3: 32 << 20, -2: 64 << 20, -1: MAX_FREED_BYTES}
"""GNU's: one arena; larger pieces come from the system, if no freed one is large enough; so much more is
asked for at once; and so much is kept at the end. <malloc.h>, mallopt(3)."""


_MALLINFO_FIELDS = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


class _MallInfo(ctypes.Structure):
    """What mallinfo2(3) tells; `fordblks` are bytes that are kept and free."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO_FIELDS]


def keep_freed_memory() -> None:
    """Let this process keep memory that it has freed, where the C library is GNU's.

    Every pass asks for the same hundreds of megabytes again. To get them from the system each time, page
    by page, takes a third of a small pass's time. Environments that set `MALLOC_...` have their way.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version") and not any(n.startswith("MALLOC_") for n in os.environ):
        for option, value in _MALLOC_OPTIONS.items():
            libc.mallopt(option, value)


def return_freed_memory() -> None:
    """Give memory that this process has freed back to the system, where the C library is GNU's."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def reusable_bytes() -> int:
    """What this process has freed and keeps; 0 where the C library does not tell."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallinfo2"):
        return 0
    libc.mallinfo2.restype = _MallInfo
    return libc.mallinfo2().fordblks


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had now; None where the system does not tell."""
    if device.type == "cuda":
        reusable = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + reusable
    if not _MEMINFO.is_file():
        return None
    fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = (p.read_text().strip() if p.is_file() else "max" for p in _CGROUP)
    free = free if "max" in (limit, used) else min(free, int(limit) - int(used))
    return free + reusable_bytes()


def free_memory() -> int | None:
    """As `free_bytes`, of the machine's own memory."""
    return free_bytes(torch.device("cpu"))


def format_bytes(count: int) -> str:
    """Bytes as people read them."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def count_weights(files: Sequence[Path]) -> int:
    """How many numbers safetensors files hold, by their headers alone."""
    return sum(map(_count_elements, files))


def _count_elements(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")


def require_memory(what: str, needed: int, available: int | None, hint: str) -> None:
    """Raise `OutOfMemory` for what would not fit."""
    if available is not None and needed > available:
        raise OutOfMemory(
            f"{what} takes {format_bytes(needed)} of memory; {format_bytes(available)} are free.",
            hint=hint,
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
        amounts = [f"{format_bytes(predicted)} were predicted"] if predicted is not None else []
        amounts += [f"{format_bytes(free)} are free"] if free is not None else []
        cause = (str(error).strip().splitlines() or ["no more can be had"])[0]
        raise OutOfMemory(f"Out of memory ({', '.join(amounts)}): {cause}", hint=hint) from error
