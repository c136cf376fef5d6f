"""Programs that are stopped by SIGSTOP while they write, and go on after `forget` (SIGCONT)."""

import asyncio
import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import StoreError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.result import Err, Ok
from ouroboros.engine import AdapterLearningEngine
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.metadata import connect
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend
from ouroboros.testing.watched import WatchedBlobs, WatchedMetadata

ANN = "ann-7391"
A = AdapterId("a")
VERBS = ("feedback", "train", "merge")

LENIENT = GatePolicy(tolerance=1.0, erosion=1.0, drift=1e9, strength=1e9)
"""Nothing is refused, so that everything that was acknowledged must have been learned in the end."""


def open_registry(folder: Path, on_point: Callable[[str], None] = lambda _: None) -> Registry:
    metadata = open_metadata(f"sqlite:///{folder}/metadata.db")
    blobs = open_blobs(f"file://{folder}/blobs")
    return Registry(WatchedMetadata(metadata, on_point), WatchedBlobs(blobs, on_point))


class Program:
    """Another process that runs one verb for each order, and reports each of its writes."""

    def __init__(self, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=obey, args=(theirs, folder))
        self._process.start()
        theirs.close()
        self.receive()  # ready

    def order(self, verb: str, word: str) -> None:
        self._pipe.send((verb, word))

    def receive(self) -> Any:
        return self._pipe.recv()

    def stop(self) -> None:
        """Stop the process where it is, and wait until it has stopped."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def go_on(self) -> str:
        """Let the process go on; returns what its verb came to."""
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGCONT)
        while (report := self.receive()) == "write":
            pass
        return report

    def end(self) -> None:
        self._process.kill()
        self._process.join()


def obey(pipe: Connection, folder: Path) -> None:
    """Run verbs as they are ordered, and report what they come to."""

    async def run() -> None:
        registry = open_registry(folder, lambda _: pipe.send("write"))
        engine = AdapterLearningEngine(FakeBackend(), registry, gate=LENIENT)
        pipe.send("ready")
        while order := await asyncio.to_thread(pipe.recv):
            verb, word = order
            if verb == "feedback":
                correction = FeedbackSignal.user_correction(word)
                result = await engine.learn_from_feedback(f"say {word}", "x", correction, "a", user=ANN)
            elif verb == "train":
                examples = [TrainingExample(f"other {word[::-1]}", "words")]
                result = await engine.train_adapter("a", examples)
            else:
                result = await engine.merge_adapters(["a", "b"], name=word[::-1], anyway=True)
            pipe.send("ok" if isinstance(result, Ok) else f"{result.error.code}: {result.error}")

    asyncio.run(run())


async def give(engine: AdapterLearningEngine, word: str, user: str) -> None:
    signal_given = FeedbackSignal.user_correction(word)
    (await engine.learn_from_feedback(f"say {word}", "x", signal_given, "a", user=user)).unwrap()


def bytes_of(folder: Path) -> bytes:
    return b"".join(f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file())


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP is POSIX")
@pytest.mark.parametrize("stops", [20, *[pytest.param(n, marks=pytest.mark.slow) for n in (150, 2000)]])
async def test_stopped_anywhere_and_continued_after_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops: int
) -> None:
    """0 hits of what was erased, 0 lost events of others.

    Two programs work on one adapter; one of them is stopped while it makes a write. If it was stopped
    inside a transaction, `forget` cannot write, says so, and is called again once the program goes on.
    """
    monkeypatch.setattr(connect, "BUSY_SECONDS", 0.2)
    store = tmp_path / "store"
    store.mkdir(mode=0o700)
    engine = AdapterLearningEngine(FakeBackend(), open_registry(store), gate=LENIENT)
    for name in ("a", "b"):
        (await engine.create_adapter(name)).unwrap()
        (await engine.train_adapter(name, [TrainingExample(name, "before")])).unwrap()
    rng = random.Random(7)
    programs = [Program(store) for _ in range(2)]
    stopped_count = 0
    try:
        for number in range(stops):
            word = f"xyzzy{number}q"
            await give(engine, f"{word} first", ANN)
            await give(engine, f"bob's word {number}", "bob")
            stopped, other = rng.sample(programs, 2)
            stopped_count += await stop_and_forget(engine, stopped, other, rng, word, store)
            for name in [a.id.name for a in (await engine.list_adapters()).unwrap()]:
                if name not in ("a", "b"):
                    (await engine.delete_adapter(name)).unwrap()
    finally:
        for program in programs:
            program.end()
    assert stopped_count > stops / 2  # the other verbs ended before
    text = bytes_of(store)
    assert ANN.encode() not in text
    registry = open_registry(store)
    events = json.dumps([repr(entry.event) for entry in registry.journal.read_all(A)])
    assert all(f"bob's word {number}" in events for number in range(stops))
    learned = registry.load_files(registry.get_version(VersionRef(A))).weights.decode()
    assert all(f"bob's word {number}" in learned for number in range(stops))
    report = check_store(registry)
    assert (report.damages, report.forgetting, report.remakes) == ((), (), ())


async def stop_and_forget(
    engine: AdapterLearningEngine,
    stopped: Program,
    other: Program,
    rng: random.Random,
    word: str,
    store: Path,
) -> bool:
    """Stop one program at a write, forget ann, let it go on, and search every byte of the store.

    Returns whether the program was stopped before its verb ended.
    """
    stopped.order(rng.choice(VERBS), f"{word} again")
    if rng.random() < 0.5:
        other.order("train", f"{word} too")
    else:
        other = stopped
    for _ in range(rng.randrange(1, 12)):
        if stopped.receive() != "write":
            break
    else:
        stopped.stop()
        erased = await engine.forget_user(ANN)
        outcomes = [stopped.go_on()]
        outcomes += [other.go_on()] if other is not stopped else []
        if isinstance(erased, Err):
            assert isinstance(erased.error, StoreError), erased
            (await engine.forget_user(ANN)).unwrap()
        expected = ("ok", "conflict", "not_found", "store")
        assert all(outcome.startswith(expected) for outcome in outcomes), outcomes
        assert word.encode() not in bytes_of(store), outcomes
        return True
    if other is not stopped:
        other.go_on()
    (await engine.forget_user(ANN)).unwrap()
    assert word.encode() not in bytes_of(store)
    return False
