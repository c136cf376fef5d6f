"""Killed at any moment, the store opens whole: nothing acknowledged is lost and nothing dangles."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

WRITER = """
import sys
from ouroboros.domain.base_model import BaseModel, Fingerprint
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import NotFound
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.weights import AdapterFiles
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

folder, round = sys.argv[1], int(sys.argv[2])
registry = Registry(open_metadata(f"sqlite:///{folder}/m.db"), open_blobs(f"file://{folder}/blobs"))
base = BaseModel("tiny", Fingerprint("c", "t", "m", "w", 1), "llama", 8, 2, 64, 1, ())
kept, shared = AdapterId("kept"), AdapterId("come and go")
same = AdapterFiles(b"{}", b"the same weights each time")
print("ready", flush=True)
try:
    registry.get_adapter(kept)
except NotFound:
    registry.create_adapter(kept, AdapterConfig(), base, same)
for step in range(10_000):
    seq = registry.journal.append_examples(kept, [TrainingExample(f"{round}.{step}", "answer")])
    print("event", seq, f"{round}.{step}", flush=True)
    files = AdapterFiles(b"{}", f"weights of {round}.{step} ".encode() * 2000)
    head = registry.get_adapter(kept).head
    made = registry.commit_version(kept, files, parent=head, cause="trained", events=seq)
    print("version", made.number, files.digest, flush=True)
    if step % 3 == 1:
        registry.rollback(VersionRef(kept, made.parent))
        print("head", made.parent, flush=True)
    try:
        registry.delete_adapter(shared)
    except NotFound:
        registry.create_adapter(shared, AdapterConfig(), base, same)
"""


class Promises:
    """What a killed writer had acknowledged."""

    def __init__(self) -> None:
        self.versions: dict[int, str] = {}
        self.events: dict[int, str] = {}

    def take(self, lines: list[str]) -> None:
        for line in lines:
            kind, number, *rest = line.split()
            if kind == "version":
                self.versions[int(number)] = rest[0]
            elif kind == "event":
                self.events[int(number)] = rest[0]


def run_and_kill(folder: Path, round: int, lines: int, seconds: float) -> list[str]:
    """Start the writer, kill it `seconds` after it wrote `lines` lines; returns its whole lines."""
    output = folder / f"out{round}"
    with output.open("wb") as out:
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(folder), str(round)],
            stdout=out,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": "src"},
        )
        while output.read_bytes().count(b"\n") <= lines and writer.poll() is None:
            time.sleep(0.001)
        time.sleep(seconds)
        died = writer.poll()
        writer.kill()
        _, errors = writer.communicate()
    assert died is None, errors.decode()
    return output.read_text().split("\n")[1:-1]


def check_store(folder: Path, promised: Promises) -> None:
    registry = Registry(open_metadata(f"sqlite:///{folder}/m.db"), open_blobs(f"file://{folder}/blobs"))
    for adapter in registry.list_adapters():
        for version in registry.list_versions(adapter.id):
            registry.load_files(version)
        registry.get_version(VersionRef(adapter.id))
    adapter = AdapterId("kept")
    digests = {v.number: v.digest for v in registry.list_versions(adapter)} if promised.versions else {}
    assert promised.versions.items() <= digests.items()
    journal = {j.seq: j.event for j in registry.journal.read(adapter, limit=100_000)}
    assert {seq: journal[seq].examples[0].input for seq in promised.events} == promised.events  # type: ignore[union-attr]
    registry.close()


def kill_often(folder: Path, kills: int, seed: int) -> Promises:
    chance, promised = random.Random(seed), Promises()
    for round in range(kills):
        lines, seconds = chance.randrange(8), chance.uniform(0.0, 0.05)
        promised.take(run_and_kill(folder, round, lines, seconds))
        check_store(folder, promised)
    return promised


def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    assert len(kill_often(tmp_path, 20, seed=1).versions) > 10


@pytest.mark.slow
def test_three_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    assert len(kill_often(tmp_path, 300, seed=2).versions) > 100
