"""A store of many adapters: how long the verbs that do not depend on its size take."""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import BASE

PAGE = 100
"""Adapters listed at a time."""


def fill(folder: Path, adapters: int, versions: int) -> None:
    """Fill a store with `adapters` times `versions` rows, as commits write them, sharing weights."""
    registry = open_at(folder)
    files = AdapterFiles(b"{}", b"weights")
    for n in range(adapters):
        name = name_of(n)
        registry.create_adapter(name, AdapterConfig(), BASE, files)
        first = registry.get_version(VersionRef(name))
        for parent in range(1, versions):
            registry.version_rows.add(replace(first, parent=parent, cause="trained"))
    registry.close()


def measure(folder: Path, adapters: int, versions: int, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each verb, over adapters chosen at random; a store is opened each time."""
    chance = random.Random(1)
    opened = [_time(lambda: open_at(folder).close()) for _ in range(repeats)]
    registry = open_at(folder)
    times = {"open": opened, "list": [], "page": [], "versions": [], "head": [], "rollback": []}
    for _ in range(repeats):
        name = name_of(chance.randrange(adapters))
        ref = VersionRef(name, chance.randrange(1, versions + 1))
        times["list"].append(_time(registry.list_adapters))
        times["page"].append(_time(partial(registry.list_adapters, name.name, PAGE)))
        times["versions"].append(_time(partial(registry.list_versions, name)))
        times["head"].append(_time(partial(registry.get_version, VersionRef(name))))
        times["rollback"].append(_time(partial(registry.rollback, ref)))
    registry.close()
    return times


def p95(values: list[float]) -> float:
    return sorted(values)[int(0.95 * (len(values) - 1))]


def open_at(folder: Path) -> Registry:
    return Registry(
        open_metadata(f"sqlite:///{folder}/metadata.db"), open_blobs(f"file://{folder}/blobs")
    )


def name_of(n: int) -> AdapterId:
    return AdapterId(f"adapter {n:04d}")


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - started)
