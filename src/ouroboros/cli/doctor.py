"""`ouroboros doctor`."""

import os
import platform
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import store_exists
from ouroboros.settings import Settings

NAME = "doctor"
HELP = "show what this program has to work with: the machine, packages, the store and the model"
EXAMPLES = """\
  ouroboros doctor
  ouroboros doctor --json    for a bug report"""

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "sqlalchemy", "numpy", "pydantic")
OPTIONAL = ("obstore", "psycopg", "qdrant-client", "bitsandbytes", "sentence-transformers", "peft")
LOW_MEMORY = 2 * 2**30
LOW_DISK = 2**30


def add_arguments(parser: ArgumentParser) -> None:
    """Has no options of its own."""


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    value = examine(settings)
    value["problems"] = list(find_problems(value))
    memory, disk = value["memory_free"], value["store"]["disk_free"]
    packages = ", ".join(f"{name} {release or 'missing'}" for name, release in value["packages"].items())
    extras = ", ".join(f"{name} {release}" for name, release in value["optional"].items() if release)
    store = value["store"]
    lines = [
        f"ouroboros  {value['version']} on Python {value['python']}, {value['system']}",
        f"processor  {value['cores']} cores, {value['threads'] or 'as many'} threads,"
        f" bfloat16 {'in hardware' if value['bfloat16'] else 'emulated or unknown'}",
        f"memory     {describe.size(memory) if memory is not None else 'unknown'} free",
        f"devices    {', '.join(value['devices']) or 'no accelerator'}",
        f"packages   {packages}",
        f"extras     {extras or 'none'}",
        f"store      {store['path']}: {'exists' if store['exists'] else 'not made yet'},"
        f" {'writable' if store['writable'] else 'not writable'}"
        + (f", {describe.size(disk)} free" if disk is not None else ""),
        f"model      {value['model']}",
    ]
    lines += [f"Problem: {problem}" for problem in value["problems"]] or ["No problem is known."]
    out.result(value, *lines)


def examine(settings: Settings) -> dict[str, Any]:
    """Returns what can be known without importing a heavy library."""
    folder = _nearest_folder(Path(settings.store).expanduser())
    scheme = settings.metadata.partition(":")[0]  # the rest may hold a password
    return {
        "version": version("ouroboros-learning"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": settings.threads,
        "bfloat16": has_bfloat16(_read("/proc/cpuinfo")),
        "memory_free": available_memory(_read("/proc/meminfo")),
        "devices": sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*")),
        "packages": {name: installed_version(name) for name in PACKAGES},
        "optional": {name: installed_version(name) for name in OPTIONAL},
        "store": {
            "path": f"{scheme}://..." if scheme else settings.store,
            "exists": store_exists(settings),
            "writable": os.access(folder, os.W_OK),
            "disk_free": shutil.disk_usage(folder).free if folder.exists() else None,
        },
        "model": settings.model,
    }


def find_problems(value: dict[str, Any]) -> Iterator[str]:
    """Yields a sentence with a hint for everything that will stop a verb."""
    missing = [name for name, release in value["packages"].items() if release is None]
    if missing:
        yield f"{', '.join(missing)} is not installed: pip install {' '.join(missing)}"
    if not value["store"]["writable"]:
        yield f"the store's folder {value['store']['path']} cannot be written: check its permissions"
    if value["memory_free"] is not None and value["memory_free"] < LOW_MEMORY:
        yield f"only {describe.size(value['memory_free'])} of memory are free: close other programs"
    disk = value["store"]["disk_free"]
    if disk is not None and disk < LOW_DISK:
        yield f"only {describe.size(disk)} are free on the store's disk"


def installed_version(package: str) -> str | None:
    """Returns the version of an installed package; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def has_bfloat16(cpuinfo: str) -> bool:
    """Whether a processor multiplies bfloat16 itself: AVX-512, AMX or Arm's extension."""
    flags = set(cpuinfo.split())
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})


def available_memory(meminfo: str) -> int | None:
    """Bytes that programs can still get; None where the system does not say."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _nearest_folder(path: Path) -> Path:
    """The path, or the nearest of its parents that exists."""
    return next((folder for folder in (path, *path.absolute().parents) if folder.exists()), Path("/"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
