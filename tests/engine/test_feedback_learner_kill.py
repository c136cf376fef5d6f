"""Killed between acknowledgement and promotion: no event is lost and none is applied twice."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

NAME = AdapterId("tickets")

TEACHER = """
import asyncio, sys
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

folder, model, round = sys.argv[1:]
if model == "fake":
    from ouroboros.testing.backend import FakeBackend
    backend = FakeBackend(step_seconds=0.005)
else:
    from ouroboros.backend.local import LocalBackend
    backend = LocalBackend.open(model, dtype="float32", threads=1)

async def main():
    registry = Registry(open_metadata(f"sqlite:///{folder}/m.db"), open_blobs(f"file://{folder}/blobs"))
    async with AdapterLearningEngine(backend, registry) as engine:
        await engine.create_adapter("tickets", AdapterConfig())
        print("ready", flush=True)
        (await engine.learn_pending()).unwrap()
        for step in range(500 if round != "last" else 0):
            given = await engine.learn_from_feedback(
                f"prompt {round}.{step}", "wrong", FeedbackSignal.user_correction(f"right {step}"),
                "tickets", key=f"{round}.{step}", wait=step % 3 == 2,
            )
            print(given.unwrap().event, f"{round}.{step}", flush=True)

asyncio.run(main())
"""


def _teach(folder: Path, model: str, round: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", TEACHER, str(folder), model, round], stdout=subprocess.PIPE, text=True
    )


def teach_until_killed(folder: Path, model: str, round: str, acknowledgements: int) -> dict[int, str]:
    """What a teacher acknowledged before it was killed, right after so many acknowledgements."""
    with _teach(folder, model, round) as teacher:
        assert teacher.stdout is not None
        assert teacher.stdout.readline() == "ready\n"
        lines = [teacher.stdout.readline() for _ in range(acknowledgements)]
        teacher.kill()
        lines += teacher.stdout.read().splitlines(keepends=True)
    return {int(event): key for event, key in (line.split() for line in lines if line.endswith("\n"))}


def _check(folder: Path, acknowledged: dict[int, str]) -> None:
    registry = Registry(open_metadata(f"sqlite:///{folder}/m.db"), open_blobs(f"file://{folder}/blobs"))
    journal = {entry.seq: entry.event for entry in registry.journal.read(NAME, limit=100_000)}
    stored = {seq: event.key for seq, event in journal.items() if event.kind == "feedback"}
    assert stored.items() >= acknowledged.items()
    adapter = registry.get_adapter(NAME)
    assert adapter.applied == max(stored)
    line = registry.list_lineage(VersionRef(NAME))
    learned = [lesson.event for version in line for lesson in version.lessons]
    assert sorted(learned) == sorted(stored)
    registry.load_files(line[0])
    registry.close()


def _survive(folder: Path, model: str, kills: int) -> None:
    chance = random.Random(3)
    acknowledged: dict[int, str] = {}
    for round in range(kills):
        # The first kill is while it still learns what is pending, before any acknowledgement.
        wanted = chance.randrange(1, 9) if round else 0
        lines = teach_until_killed(folder, model, str(round), wanted)
        assert len(lines) >= wanted
        acknowledged |= lines
    last = _teach(folder, model, "last")
    last.communicate()
    assert last.returncode == 0
    _check(folder, acknowledged)


def test_feedback_survives_being_killed(tmp_path: Path) -> None:
    _survive(tmp_path, "fake", kills=6)


@pytest.mark.slow
def test_feedback_survives_being_killed_with_a_real_model(tmp_path: Path, tiny: Path) -> None:
    _survive(tmp_path, str(tiny), kills=12)
