"""Killing a working program, over and over, and looking what is left of what it had promised.

Each round forks a program that opens the store and lives an adapter's life on the fake backend: create,
train, judge, promote, roll back, delete, collect. It writes a line once a verb has returned, and is
killed with SIGKILL: at a random moment, or by itself at a random pass of a named point, before or after
one write of a store. Then the store is opened again, and everything said must be there.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path

from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import OuroborosError
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.result import Ok
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend
from ouroboros.testing.watched import OnPoint, WatchedBlobs, WatchedMetadata

ROUNDS_PER_STORE = 50
KEPT, BRIEF = AdapterId("kept"), AdapterId("comes and goes")
STEPS = 12
"""Turns of the life before a program that nobody killed ends."""


@dataclass
class KillPromises:
    """What was acknowledged, over all rounds on one store."""

    versions: dict[int, str] = field(default_factory=dict)
    events: dict[int, str] = field(default_factory=dict)
    head: int | None = None

    def take(self, lines: list[str]) -> None:
        for line in lines:
            kind, number, *rest = line.split()
            if kind == "version":
                self.versions[int(number)] = rest[0]
            elif kind == "event":
                self.events[int(number)] = rest[0]
            elif kind == "trying":
                self.head = None  # whether the next move happened is not known until it is said
            elif kind == "head":
                self.head = int(number)


@dataclass
class KillTally:
    """What happened in all rounds: kills, by where; and what was lost, which is to be nothing."""

    kills: int = 0
    points: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    unopened: list[str] = field(default_factory=list)


def survive(folder: Path, kills: int, seed: int) -> KillTally:
    """Kill `kills` programs, half of them at named points, and tally what is found afterwards."""
    chance, tally = random.Random(seed), KillTally()
    store, promised = folder, KillPromises()
    for round in range(kills):
        if round % ROUNDS_PER_STORE == 0:
            store, promised = folder / f"store{round}", KillPromises()
        lines, point = _run(store, round, chance)
        promised.take(lines)
        tally.kills += 1
        tally.points[point] += 1
        tally.acknowledged += sum(line.split()[0] in ("version", "event") for line in lines)
        _in_child(partial(_inspect, store, promised), tally)
    return tally


def _run(store: Path, round: int, chance: random.Random) -> tuple[list[str], str]:
    """Fork a life and kill it; returns its whole lines and where it died."""
    at_point = round % 2 == 0
    passes = chance.randrange(1, 120) if at_point else 0
    lines, moment = chance.randrange(6), chance.uniform(0.0, 0.03)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _end(lambda: _live(store, writing, round, _killer(passes, writing)))
    os.close(writing)
    output_lines = _listen(reading, child, None if at_point else lines, moment)
    os.waitpid(child, 0)
    died = next((line[5:] for line in output_lines if line.startswith("dies ")), "at a random moment")
    return [line for line in output_lines if not line.startswith("dies ")], died


def _listen(reading: int, child: int, lines: int | None, moment: float) -> list[str]:
    """Collect what the child says; kill it a moment after that many lines, if it lives so long."""
    text = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while data := pipe.read(65536):
            text += data
            if lines is not None and text.count(b"\n") > lines:
                time.sleep(moment)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                lines = None
    return text.decode().split("\n")[:-1]


def _killer(passes: int, say: int) -> OnPoint:
    """Kills this process at the given pass of any point."""
    remaining = [passes]

    def watch(point: str) -> None:
        remaining[0] -= 1
        if remaining[0] == 0:
            os.write(say, f"dies {point}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def _live(store: Path, say: int, round: int, watch: OnPoint) -> None:
    registry = Registry(
        WatchedMetadata(open_metadata(f"sqlite:///{store}/metadata.db"), watch),
        WatchedBlobs(open_blobs(f"file://{store}/blobs"), watch),
    )

    def tell(*words: object) -> None:
        os.write(say, (" ".join(map(str, words)) + "\n").encode())

    asyncio.run(_life(AdapterLearningEngine(FakeBackend(), registry), round, tell))


async def _life(engine: AdapterLearningEngine, round: int, tell: Callable[..., None]) -> None:
    """An adapter that stays and one that comes and goes; a line for whatever has been acknowledged."""
    tell("ready", 0)
    await engine.create_adapter(KEPT, AdapterConfig())
    for step in range(STEPS):
        word = f"{round}.{step}"
        # Announce each move of the head before it is made: if the program is killed in between, the
        # head may be either.
        tell("trying", 0)
        examples = [TrainingExample(f"prompt {word} {i}", f"answer {word}") for i in range(3)]
        match await engine.train_adapter(KEPT, examples, TrainingConfig()):
            case Ok(version):
                tell("event", version.events, word)
                tell("version", version.number, version.digest)
                tell("head", version.number)
        tell("trying", 0)
        ticket = await engine.learn_from_feedback(
            f"question {word}", "wrong", FeedbackSignal.user_correction(f"right {word}"), KEPT, key=word
        )
        ticket = ticket.unwrap()
        tell("event", ticket.event, word)
        if ticket.version is not None:
            tell("version", ticket.version.number, ticket.version.digest)
            tell("head", ticket.version.number)
        if step % 3 == 2 and ticket.version is not None and ticket.version.parent:
            tell("trying", 0)
            moved = await engine.rollback_adapter(VersionRef(KEPT, ticket.version.parent))
            tell("head", moved.unwrap().head)
        if (await engine.delete_adapter(BRIEF)).ok is False:
            await engine.create_adapter(BRIEF, AdapterConfig())
        await engine.collect_garbage(timedelta(0))
    await engine.close()


def _inspect(store: Path, promised: KillPromises) -> list[str]:
    """Open the store, twice, and name everything that is not as it was said to be."""
    wrong: list[str] = []
    for _ in range(2):
        registry = Registry(
            open_metadata(f"sqlite:///{store}/metadata.db"), open_blobs(f"file://{store}/blobs")
        )
        report = check_store(registry)
        wrong += [f"dangling {d.ref}: {d.words}" for d in report.damages]
        known = {a.id: a for a in registry.list_adapters()}
        if KEPT in known:
            wrong += _missing(registry, promised)
            if promised.head is not None and known[KEPT].head != promised.head:
                wrong.append(f"lost head: {known[KEPT].head}, not {promised.head}")
        elif promised.versions:
            wrong.append("lost everything")
        registry.close()
    return wrong


def _missing(registry: Registry, promised: KillPromises) -> list[str]:
    versions = registry.list_versions(KEPT)
    digests, numbers = {v.number: v.digest for v in versions}, {v.number for v in versions}
    wrong = [f"lost version {n}" for n, d in promised.versions.items() if digests.get(n) != d]
    wrong += [f"dangling parent of {v.ref}" for v in versions if v.parent and v.parent not in numbers]
    recorded = {e.seq: _word(e.event) for e in registry.journal.read(KEPT, limit=1_000_000)}
    return wrong + [f"lost event {n}" for n, word in promised.events.items() if recorded.get(n) != word]


def _word(event: object) -> str:
    if isinstance(event, FeedbackGiven):
        return event.key
    return str(event.examples[0].input).split()[1] if isinstance(event, ExamplesGiven) else ""


def _in_child(inspect: Callable[[], list[str]], tally: KillTally) -> None:
    """Look in a process of its own: this one forks, so it must hold no threads and no connection."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _end(lambda: os.write(writing, "\n".join(["opened", *inspect()]).encode()))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        opened, *wrong = pipe.read().decode().split("\n")
    os.waitpid(child, 0)
    if opened != "opened":
        tally.unopened.append(opened)
    tally.dangling += [w for w in wrong if w.startswith("dangling")]
    tally.lost += [w for w in wrong if w.startswith("lost")]


def _end(work: Callable[[], object]) -> None:
    """Do the child's work and leave, never returning into the parent's code."""
    try:
        work()
    except OuroborosError as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
        os._exit(2)
    os._exit(0)
