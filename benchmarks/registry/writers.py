"""Many processes that commit to one adapter at once: every acknowledged commit is in its line."""

from pathlib import Path

from benchmarks.registry.scale import open_at
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import Conflict
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.testing.backend import BASE
from ouroboros.testing.processes import run_in_processes

TICKETS = AdapterId("tickets")


def lost_commits(folder: Path, processes: int, commits: int) -> tuple[int, int]:
    """How many commits were acknowledged, and how many of them are not on the head's line."""
    registry = open_at(folder)
    registry.create_adapter(TICKETS, AdapterConfig(), BASE, AdapterFiles(b"{}", b"0"))
    each = commits // processes
    acknowledged = [
        n for mine in run_in_processes(processes, commit_often, str(folder), each) for n in mine
    ]
    line = {v.number for v in registry.list_lineage(VersionRef(TICKETS))}
    registry.close()
    return len(acknowledged), len(acknowledged) - len(set(acknowledged) & line)


def commit_often(writer: int, folder: str, times: int) -> list[int]:
    """Commit onto whatever is the head, again when another was first; numbers of those acknowledged."""
    registry = open_at(Path(folder))
    numbers: list[int] = []
    while len(numbers) < times:
        head = registry.get_adapter(TICKETS).head
        files = AdapterFiles(b"{}", b"the same weights")
        try:
            numbers.append(registry.commit_version(TICKETS, files, parent=head, cause="trained").number)
        except Conflict:
            continue
    registry.close()
    return numbers
