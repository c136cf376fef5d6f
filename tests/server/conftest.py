"""One server on the tiny model for a module's tests, with an adapter "tickets" of two versions."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.engine import AdapterLearningEngine
from tests.server.running import RunningServer, run_server

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")


async def create_tickets(engine: AdapterLearningEngine) -> None:
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    rows = [TrainingExample("where is my parcel?", "shipping")]
    (await engine.train_adapter("tickets", rows, TrainingConfig(epochs=20))).unwrap()


@pytest.fixture(scope="module")
def server(tiny: Path) -> Iterator[RunningServer]:
    def open_backend() -> LocalBackend:
        return LocalBackend.open(str(tiny), dtype="float32", threads=1)

    with run_server(open_backend, prepare=create_tickets) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: RunningServer) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=server.url, timeout=120) as client:
        yield client
