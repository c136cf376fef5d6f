"""Many processes write to one adapter: each commit builds on the one before, and none is lost."""

from pathlib import Path

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.processes import run_in_processes

TICKETS = AdapterId("tickets")


def open_at(folder: Path) -> Registry:
    return Registry(
        open_metadata(f"sqlite:///{folder}/metadata.db"), open_blobs(f"file://{folder}/blobs")
    )


def commit_often(writer: int, folder: Path, times: int) -> list[int]:
    registry = open_at(folder)
    numbers: list[int] = []
    while len(numbers) < times:
        head = registry.get_adapter(TICKETS).head
        files = AdapterFiles(b"{}", f"{writer} {len(numbers)} on {head}".encode())
        try:
            numbers.append(registry.commit_version(TICKETS, files, parent=head, cause="trained").number)
        except Conflict:
            continue
    registry.close()
    return numbers


def check_writers(folder: Path, base: BaseModel, processes: int, times: int) -> None:
    registry = open_at(folder)
    registry.create_adapter(TICKETS, AdapterConfig(), base, AdapterFiles(b"{}", b"0"))
    acknowledged = [n for mine in run_in_processes(processes, commit_often, folder, times) for n in mine]
    line = registry.list_lineage(VersionRef(TICKETS))
    assert sorted(acknowledged) == sorted(v.number for v in line[:-1])
    assert len(set(acknowledged)) == processes * times
    assert [v.number for v in registry.list_versions(TICKETS)] == sorted(v.number for v in line)
    for version in line:
        registry.load_files(version)
    registry.close()


def test_three_processes_lose_no_commit(tmp_path: Path, base: BaseModel) -> None:
    check_writers(tmp_path, base, processes=3, times=8)


@pytest.mark.slow
def test_eight_processes_lose_no_commit(tmp_path: Path, base: BaseModel) -> None:
    check_writers(tmp_path, base, processes=8, times=250)
