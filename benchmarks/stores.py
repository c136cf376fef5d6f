"""Stores on this machine: reading an adapter's head from SQLite and PostgreSQL, committing a version."""

import tempfile
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import closing

from benchmarks.harness import Claim, Spread
from ouroboros.domain.base_model import BaseModel, Fingerprint
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.names import AdapterId
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.servers import run_postgres

NAME = AdapterId("tickets")
BASE = BaseModel("none", Fingerprint("c", "t", "m", "w", 10), "llama", 8, 2, 64, 1000, ())
WEIGHTS = 845 * 1024
"""As many bytes as an adapter of the starter model has."""


def run(options: Namespace) -> list[Claim]:
    rounds, times = (1, 20) if options.quick else (5, 300)
    with tempfile.TemporaryDirectory() as folder, run_postgres() as server:
        sqlite = f"sqlite:///{folder}/metadata.db"
        database = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
        blobs = f"file://{folder}/blobs"
        with (
            closing(fill_registry(sqlite, blobs)) as embedded,
            closing(fill_registry(database, "memory:")) as other,
        ):
            reads = [_p95(lambda: embedded.get_adapter(NAME), times) for _ in range(rounds)]
            remote = [_p95(lambda: other.get_adapter(NAME), times) for _ in range(rounds)]
            commits = [_p95(_commit(embedded), times // 10) for _ in range(rounds)]
    return [
        Claim("head read from SQLite, p95", Spread.of(reads), at_most=2, unit=" ms"),
        Claim("head read from PostgreSQL, p95", Spread.of(remote), at_most=5, unit=" ms"),
        Claim("version commit, files and SQLite, p95", Spread.of(commits), at_most=50, unit=" ms"),
    ]


def fill_registry(metadata: str, blobs: str) -> Registry:
    registry = Registry(open_metadata(metadata), open_blobs(blobs))
    registry.create_adapter(NAME, AdapterConfig(), BASE, _files(0))
    return registry


def _commit(registry: Registry) -> Callable[[], object]:
    def commit() -> object:
        head = registry.get_adapter(NAME).head
        return registry.commit_version(NAME, _files(head), parent=head, cause="trained")

    return commit


def _files(number: int) -> AdapterFiles:
    return AdapterFiles(b'{"r": 8}', number.to_bytes(8, "little") * (WEIGHTS // 8))


def _p95(work: Callable[[], object], times: int) -> float:
    """Milliseconds that 95 of 100 calls stay under."""
    took = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        took.append(1000 * (time.perf_counter() - started))
    return sorted(took)[int(0.95 * (len(took) - 1))]
