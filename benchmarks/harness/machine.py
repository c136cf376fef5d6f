"""The machine that the figures were measured on, in one line."""

import os
import platform
from datetime import date
from importlib.metadata import version
from pathlib import Path


def machine() -> str:
    """CPU, cores, threads, Python, torch, load and date."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", cores)
    return (
        f"{_cpu()}, {cores} cores, {threads} threads, Python {platform.python_version()}, "
        f"torch {version('torch')}, load {os.getloadavg()[0]:.1f}, {date.today().isoformat()}"
    )


def _cpu() -> str:
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
