"""Versions are made again from the journal: the same to the last bit, and without what is forgotten."""

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import NotFound
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.engine import AdapterLearningEngine
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.registry.fsck import check_store
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.tiny import tiny_model

SECRET, EVE = "xyzzy", "eve-7391"

LENIENT = GatePolicy(tolerance=1.0, erosion=1.0, drift=100.0, strength=1000.0)
"""On a base of random weights what a correction does to other answers is a matter of luck."""


def engine_on(backend: LocalBackend, registry: Registry) -> AdapterLearningEngine:
    return AdapterLearningEngine(backend, registry, gate=LENIENT)


def open_store(folder: Path) -> Registry:
    return Registry(
        open_metadata(f"sqlite:///{folder}/metadata.db"), open_blobs(f"file://{folder}/blobs")
    )


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> LocalBackend:
    """Wide enough that a correction can keep off all that is protected."""
    folder = tiny_model(tmp_path_factory.mktemp("wide"), hidden_size=192)
    return LocalBackend.open(str(folder), dtype="float32", threads=1)


def examples(word: str, count: int = 4) -> list[TrainingExample]:
    return [TrainingExample(f"{word} {i}", f"{word} answer") for i in range(count)]


async def train(engine: AdapterLearningEngine, name: str, word: str, count: int = 4) -> None:
    """Train as far as the gate lets it."""
    await engine.train_adapter(name, examples(word, count), TrainingConfig(epochs=3, seed=5))


async def correct(engine: AdapterLearningEngine, prompt: str, right: str, user: str) -> VersionRef:
    signal = FeedbackSignal.user_correction(right)
    ticket = await engine.learn_from_feedback(prompt, "wrong", signal, "a", user=user)
    version = ticket.unwrap().version
    assert version is not None
    return version.ref


async def build(folder: Path, backend: LocalBackend) -> None:
    """a: created, trained on 1, judged by ann (2) and eve (3), trained on 4; b: created; ab: merged."""
    registry = open_store(folder)
    engine = engine_on(backend, registry)
    await engine.create_adapter("a", AdapterConfig(rank=2, learning_rate=0.01), seed=3)
    await train(engine, "a", "first", 44)
    await correct(engine, "where is it", "here", "ann")
    await correct(engine, f"my name is {SECRET}", f"hello {SECRET}", EVE)
    await train(engine, "a", "then")
    await engine.create_adapter("b", AdapterConfig(rank=2, learning_rate=0.01))
    (await engine.merge_adapters(["a", "b"], name="ab", anyway=True)).unwrap()
    registry.close()


@pytest.fixture(scope="module")
def built(backend: LocalBackend, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    asyncio.run(build(folder, backend))
    return folder


@pytest.fixture
def engine(built: Path, backend: LocalBackend, tmp_path: Path) -> Iterator[AdapterLearningEngine]:
    """An engine on a copy of the built store."""
    registry = open_store(Path(shutil.copytree(built, tmp_path / "store")))
    yield engine_on(backend, registry)
    registry.close()


async def test_each_version_of_a_line_is_made_again_bit_for_bit(engine: AdapterLearningEngine) -> None:
    versions = (await engine.get_versions("a")).unwrap()
    assert {v.cause for v in versions} == {"created", "trained", "feedback"}
    assert len(versions) == 5
    versions += (await engine.get_versions("ab")).unwrap()
    for version in versions:
        rebuilt = (await engine.rebuild_version(version.ref)).unwrap()
        assert rebuilt.identical, version.ref
        assert (rebuilt.distance, rebuilt.differs) == (0.0, ())


async def test_a_rebuild_after_restarting_and_learning_more_is_still_the_same(
    engine: AdapterLearningEngine, backend: LocalBackend, tmp_path: Path
) -> None:
    await correct(engine, "where is it", "elsewhere", "ann")
    registry = open_store(tmp_path / "store")
    restarted = engine_on(backend, registry)
    for number in (2, 3, 4):
        assert (await restarted.rebuild_version(f"a@{number}")).unwrap().identical
    registry.close()


async def test_a_difference_is_measured(
    engine: AdapterLearningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that adds up in another order, only more so."""
    train = engine._backend.train

    async def otherwise(job, *rest):
        outcome = await train(job, *rest)
        blended = await engine._backend.interpolate(job.start, outcome.files, 0.99)
        return type(outcome)(blended, outcome.report)

    monkeypatch.setattr(engine._backend, "train", otherwise)
    rebuilt = (await engine.rebuild_version("a@2")).unwrap()
    assert not rebuilt.identical
    assert 0 < rebuilt.distance < 0.1


async def test_what_was_imported_cannot_be_rebuilt(engine: AdapterLearningEngine) -> None:
    files = engine._registry.blocking.load_files((await engine.get_version("a@2")).unwrap())
    await engine.import_adapter("c", files)
    error = (await engine.rebuild_version("c")).error  # type: ignore[union-attr]
    assert "was imported" in str(error)


def bytes_of(folder: Path) -> bytes:
    return b"".join(f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file())


async def test_a_forgotten_users_words_are_nowhere_in_the_store(
    engine: AdapterLearningEngine, tmp_path: Path
) -> None:
    """Blobs, the database with its log, and rows of every kind; the adapter still knows the rest."""
    store = tmp_path / "store"
    before = {(v.number, v.digest) for v in (await engine.get_versions("a")).unwrap()}
    assert SECRET.encode() in bytes_of(store)
    assert EVE.encode() in bytes_of(store)
    forgotten = (await engine.forget_user(EVE)).unwrap()
    assert [(a.name, n) for a, n in forgotten.events.items()] == [("a", (3,))]
    assert {str(r) for r in forgotten.removed} == {"a@4", "a@5", "ab@1"}
    content = bytes_of(store)
    assert SECRET.encode() not in content
    assert EVE.encode() not in content
    after = {(v.number, v.digest) for v in (await engine.get_versions("a")).unwrap()}
    assert {n for n, _ in before & after} == {1, 2, 3}
    for _, digest in before - after:
        assert digest.encode() not in content
        assert not (store / "blobs/adapters" / digest).exists()
    assert (
        check_store(engine._registry.blocking).damages
        == check_store(engine._registry.blocking).unused
        == ()
    )


async def test_what_was_served_is_made_again_from_the_last_clean_version(
    engine: AdapterLearningEngine,
) -> None:
    forgotten = (await engine.forget_events("a", 3)).unwrap()
    remade = {str(old): str(new) if new else None for old, new in forgotten.remade}
    assert remade == {"a@4": None, "a@5": "a@6", "ab@1": "ab@2"}
    head = (await engine.get_version("a")).unwrap()
    assert (head.number, head.parent, head.replaces, head.events) == (6, 3, 5, 4)
    assert head.verdict is not None
    assert head.verdict.promoted
    merged = (await engine.get_version("ab")).unwrap()
    assert [str(p) for p in merged.parents] == ["a@6", "b@1"]
    for ref in ("a@6", "ab@2"):
        assert (await engine.rebuild_version(ref)).unwrap().identical
    moves = [(m.before, m.after, m.reason) for m in (await engine.get_moves("a")).unwrap()]
    assert moves == [
        (5, 3, "without what was forgotten"),
        (3, 6, "made again without what was forgotten"),
    ]


async def test_the_same_as_if_it_had_never_been_given(
    engine: AdapterLearningEngine, backend: LocalBackend, tmp_path: Path
) -> None:
    await engine.forget_events("a", 3)
    registry = open_store(tmp_path / "other")
    other = engine_on(backend, registry)
    await other.create_adapter("a", AdapterConfig(rank=2, learning_rate=0.01), seed=3)
    await train(other, "a", "first", 44)
    await correct(other, "where is it", "here", "ann")
    await train(other, "a", "then")
    digests = [(await e.get_version("a")).unwrap().digest for e in (other, engine)]
    assert digests[0] == digests[1]
    registry.close()


async def test_forgetting_examples_goes_back_to_before_them(engine: AdapterLearningEngine) -> None:
    forgotten = (await engine.forget_events("a", 1, 2, 3, 4)).unwrap()
    assert all(new is None for old, new in forgotten.remade if old.adapter.name == "a")
    assert (await engine.get_adapter("a")).unwrap().head == 1
    assert [v.number for v in (await engine.get_versions("a")).unwrap()] == [1]


async def test_an_interrupted_forgetting_is_gone_on_with(
    engine: AdapterLearningEngine, backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(engine._registry.blocking.version_rows, "remove", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await engine.forget_events("a", 3)
    registry = open_store(tmp_path / "store")
    assert registry.get_adapter(AdapterId("a")).head == 3
    assert [n.events for n in check_store(registry).forgetting] == [(3,)]
    reopened = engine_on(backend, registry)
    forgotten = (await reopened.forget_events("a")).unwrap()
    assert {str(old) for old, _ in forgotten.remade} == {"a@4", "a@5", "ab@1"}
    assert SECRET.encode() not in bytes_of(tmp_path / "store")
    assert check_store(registry).forgetting == ()
    registry.close()


async def test_an_error_while_remaking_leaves_the_last_version_before_and_stops_no_other_forgetting(
    engine: AdapterLearningEngine, backend: LocalBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(engine._registry.blocking, "store_unserved", lambda *_, **__: 1 / 0)
        forgotten = (await engine.forget_events("a", 3)).unwrap()
    assert SECRET.encode() not in bytes_of(tmp_path / "store")
    assert {a.name: reason for a, reason in forgotten.pending.items()} == {
        "a": "ZeroDivisionError",
        "ab": "waits",
    }
    assert (await engine.get_version("a")).unwrap().number == 3
    error = (await engine.generate_with_adapter("hello", "ab")).error  # type: ignore[union-attr]
    assert "serves nothing" in str(error)
    registry = open_store(tmp_path / "store")
    report = check_store(registry)
    assert [(str(r.adapter), r.reason) for r in report.remakes] == [
        ("a", "ZeroDivisionError"),
        ("ab", ""),
    ]
    assert (report.damages, report.forgetting, report.unused) == ((), (), ())
    # Another user is forgotten before the versions are made again: they are made without both.
    reopened = engine_on(backend, registry)
    forgotten = (await reopened.forget_user("ann")).unwrap()
    assert [(a.name, n) for a, n in forgotten.events.items()] == [("a", (2,))]
    remade = {str(old): str(new) if new else None for old, new in forgotten.remade}
    assert remade == {"a@3": None, "a@4": None, "a@5": "a@6", "ab@1": "ab@2"}
    assert check_store(registry).remakes == ()
    head = (await reopened.get_version("a")).unwrap()
    assert (head.number, head.parent, head.events) == (6, 2, 4)
    registry.close()


async def test_what_was_learned_in_the_meantime_stays_when_the_rest_is_made_again(
    engine: AdapterLearningEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(engine._rebuilder, "rebuild_and_store", lambda *_: 1 / 0)
        assert len((await engine.forget_events("a", 3)).unwrap().pending) == 2
    meanwhile = await correct(engine, "what time is it", "noon", "tom")
    assert meanwhile.number == 6
    remade = dict((await engine.forget_events("a")).unwrap().remade)
    head = (await engine.get_version("a")).unwrap()
    assert (head.number, head.parent, head.replaces) == (7, 6, 5)
    assert remade[VersionRef(AdapterId("a"), 5)] == head.ref


async def test_what_is_not_there_changes_nothing(engine: AdapterLearningEngine) -> None:
    for name, event, kind in (("a", 99, NotFound), ("a", 0, NotFound), ("x", 1, NotFound)):
        error = (await engine.forget_events(name, 2, event)).error  # type: ignore[union-attr]
        assert isinstance(error, kind)
    assert (await engine.forget_user("nobody")).unwrap().events == {}
    assert len((await engine.get_versions("a")).unwrap()) == 5
    journal = engine._registry.blocking.journal.read_all((await engine.get_adapter("a")).unwrap().id)
    assert [e.seq for e in journal] == [1, 2, 3, 4]


async def test_a_merge_that_cannot_be_made_again_serves_nothing_and_stops_no_erasure(
    engine: AdapterLearningEngine, tmp_path: Path
) -> None:
    await engine.delete_adapter("b")
    forgotten = (await engine.forget_events("a", 3)).unwrap()
    assert {a.name: reason for a, reason in forgotten.pending.items()} == {"ab": "not_found"}
    assert SECRET.encode() not in bytes_of(tmp_path / "store")
    assert (await engine.get_version("a")).unwrap().number == 6
    error = (await engine.get_version("ab")).error  # type: ignore[union-attr]
    assert isinstance(error, NotFound)
    await engine.delete_adapter("ab")
    assert check_store(engine._registry.blocking).remakes == ()
