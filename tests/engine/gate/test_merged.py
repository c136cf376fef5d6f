"""Merges before the gate, and what a merged adapter remembers, on a backend that learns by heart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from ouroboros.backend.base import MergedAdapter, MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidInput, OuroborosError, Refused
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.result import Err, Result
from ouroboros.domain.verdict import CheckName
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend


class Lossy(FakeBackend):
    """Merging keeps what the last parent knows, and drops the rest."""

    async def merge(self, job: MergeJob, cancel: CancellationToken | None = None) -> MergedAdapter:
        return await super().merge(MergeJob(job.parents[-1:] * 2, job.recipe, job.rank), cancel)


def rows(word: str, count: int = 10) -> list[TrainingExample]:
    return [TrainingExample(f"{word} {i}", word) for i in range(count)]


def open_engine(folder: Path, backend: FakeBackend) -> AdapterLearningEngine:
    registry = Registry(
        open_metadata(f"sqlite:///{folder}/metadata.db"), open_blobs(f"file://{folder}/blobs")
    )
    return AdapterLearningEngine(backend, registry)


async def teach(engine: AdapterLearningEngine, name: str, *examples: TrainingExample) -> None:
    with suppress(OuroborosError):
        (await engine.create_adapter(name)).unwrap()
    (await engine.train_adapter(name, examples)).unwrap()


@asynccontextmanager
async def open_trained(folder: Path, backend: FakeBackend) -> AsyncIterator[AdapterLearningEngine]:
    """Two adapters, one colour each."""
    async with open_engine(folder, backend) as engine:
        await teach(engine, "red", *rows("red"))
        await teach(engine, "blue", *rows("blue"))
        yield engine


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AdapterLearningEngine]:
    async with open_trained(tmp_path, FakeBackend()) as engine:
        yield engine


@pytest.fixture
async def lossy(tmp_path: Path) -> AsyncIterator[AdapterLearningEngine]:
    async with open_trained(tmp_path, Lossy()) as engine:
        yield engine


def expect_refusal(result: Result, kind: type[OuroborosError] = Refused) -> str:
    assert isinstance(result, Err)
    assert isinstance(result.error, kind)
    return str(result.error)


async def read_probes(engine: AdapterLearningEngine, name: str) -> dict:
    probes = (await engine.get_probes(name)).unwrap()
    return {p.example.input: p.example.output for p in probes}


async def read_replay(engine: AdapterLearningEngine, name: str) -> dict:
    adapter = (await engine.get_adapter(name)).unwrap()
    known = await engine._gate.knowledge(adapter)
    return {row.prompt: row.output for row in known.list_replay_rows()}


async def merge_into_both(engine: AdapterLearningEngine, *names: str) -> None:
    (await engine.merge_adapters(names or ("red", "blue"), name="both")).unwrap()


async def test_the_verdict_compares_with_each_parent_and_is_kept_and_explained(engine):
    report = (await engine.merge_adapters(["red", "blue"], name="both")).unwrap()
    version = (await engine.get_version("both")).unwrap()
    assert report.verdict == version.verdict
    assert version.verdict is not None
    assert version.verdict.promoted
    known = [c for c in version.verdict.checks if c.name is CheckName.KNOWN]
    assert {(c.beside, c.answers.rows, c.answers.after) for c in known} == {
        ("red@2", 10, 1.0),
        ("blue@2", 10, 1.0),
    }
    assert {c.name for c in version.verdict.checks} >= {CheckName.FINITE, CheckName.STRENGTH}
    lines = (await engine.explain_version("both")).unwrap().lines
    assert lines[0] == "both@1, merged red@2, blue@2 (task_arithmetic): promoted."
    assert any("10 of 10 probes from red right (10 by red@2)" in line for line in lines)


async def test_a_merge_that_loses_what_a_parent_knew_is_refused_and_nothing_is_made(lossy):
    words = expect_refusal(await lossy.merge_adapters(["red", "blue"], name="both"))
    assert "of 10 probes red@2 gets 10 right and both 0" in words
    assert "Route instead" in words
    assert [a.id.name for a in (await lossy.list_adapters()).unwrap()] == ["blue", "red"]


async def test_it_is_made_anyway_if_asked_for_with_its_verdict(lossy):
    report = (await lossy.merge_adapters(["red", "blue"], name="both", anyway=True)).unwrap()
    assert "Merging did not help" in report.advice
    version = (await lossy.get_version("both")).unwrap()
    assert version.refused
    lines = (await lossy.explain_version("both")).unwrap().lines
    assert lines[0].endswith("refused, created anyway, as requested.")
    assert sum('lost: "red' in line for line in lines) == 5


async def test_what_is_given_is_compared_with_the_best_single_parent(lossy):
    """Of these `red` alone answers nine, which are lost; those of `blue` are kept."""
    probes = [*rows("red", 9), *rows("blue", 3)]
    words = expect_refusal(await lossy.merge_adapters(["red", "blue"], name="both", probes=probes))
    assert "of 12 probes red@2 gets 9 right and both 3" in words
    report = (
        await lossy.merge_adapters(["red", "blue"], name="both", probes=probes, anyway=True)
    ).unwrap()
    assert report.accuracy == {"red@2": 9 / 12, "blue@2": 3 / 12, "both": 3 / 12}


async def test_a_merge_remembers_what_its_parents_were_taught(engine):
    (await engine.pin_answers("red", rows("red", 1))).unwrap()
    await merge_into_both(engine)
    assert await read_probes(engine, "both") == {
        e.input: e.output for e in (*rows("red"), *rows("blue"))
    }
    assert await read_replay(engine, "both") == await read_probes(engine, "both")
    probes = (await engine.get_probes("both")).unwrap()
    assert {p.ref.adapter for p in probes} == {"red", "blue"}


async def test_no_update_of_a_merge_may_lose_a_pin_of_its_parents(engine):
    (await engine.pin_answers("red", rows("red", 1))).unwrap()
    await merge_into_both(engine)
    lost = TrainingExample("red 0", "green")
    assert "pinned" in expect_refusal(await engine.train_adapter("both", [lost]))
    (await engine.unpin_answers("both", ["red 0"])).unwrap()
    assert (await engine.train_adapter("both", [lost])).unwrap().number == 3
    assert [p.input for p in await pins(engine, "red")] == ["red 0"], "the parent's own stays"


async def pins(engine: AdapterLearningEngine, name: str) -> list[TrainingExample]:
    adapter = (await engine.get_adapter(name)).unwrap()
    return (await engine._gate.knowledge(adapter)).pins


async def test_what_parents_learn_and_pin_later_is_theirs(engine):
    await merge_into_both(engine)
    await teach(engine, "red", TrainingExample("later", "red"))
    (await engine.pin_answers("red", rows("red", 1))).unwrap()
    assert "later" not in await read_replay(engine, "both")
    assert await pins(engine, "both") == []


async def test_a_merge_of_a_merge_remembers_all(engine):
    await merge_into_both(engine)
    await teach(engine, "both", TrainingExample("own", "word"))
    await teach(engine, "green", *rows("green"))
    (await engine.merge_adapters(["both", "green"], name="all")).unwrap()
    assert set((await read_probes(engine, "all")).values()) == {"red", "blue", "green", "word"}
    places = {p.ref.adapter for p in (await engine.get_probes("all")).unwrap()}
    assert places == {"red", "blue", "green", "both"}


async def test_a_later_verdict_looks_at_each_parents_knowledge_by_itself(engine):
    await merge_into_both(engine)
    fix = FeedbackSignal.user_correction("word")
    ticket = (await engine.learn_from_feedback("q", "x", fix, "both")).unwrap()
    assert ticket.version is not None
    known = [c for c in ticket.version.verdict.checks if c.name is CheckName.KNOWN]
    assert {c.like.adapter for c in known} == {"red", "blue"}
    lines = (await engine.explain_version(ticket.version.ref)).unwrap().lines
    assert any("probes from blue right" in line for line in lines)


async def test_what_parents_answer_differently_is_remembered_by_no_one(engine):
    await teach(engine, "red", TrainingExample("same", "yes"), TrainingExample("torn", "red"))
    await teach(engine, "blue", TrainingExample("same", "yes"), TrainingExample("torn", "blue"))
    await merge_into_both(engine)
    assert (await read_probes(engine, "both"))["same"] == "yes"
    assert "torn" not in await read_probes(engine, "both") | await read_replay(engine, "both")


async def test_pins_that_no_one_adapter_can_keep_stop_a_merge(engine):
    for name in ("red", "blue"):
        (await engine.pin_answers(name, [TrainingExample("torn", name)])).unwrap()
    words = expect_refusal(await engine.merge_adapters(["red", "blue"], name="both"), InvalidInput)
    assert "red and blue pin different answers to one prompt" in words
    assert [a.id.name for a in (await engine.list_adapters()).unwrap()] == ["blue", "red"]


async def test_what_is_forgotten_by_a_parent_is_remembered_by_no_merge(engine):
    (await engine.pin_answers("red", [TrainingExample("secret", "xyzzy")])).unwrap()
    await merge_into_both(engine)
    assert "secret" in await read_probes(engine, "both")
    (await engine.forget_events("red", 2)).unwrap()
    assert "secret" not in await read_probes(engine, "both")
    (await engine.forget_events("red", 1)).unwrap()
    assert set((await read_probes(engine, "both")).values()) == {"blue"}
    version = (await engine.get_version("both")).unwrap()
    assert version.replaces == 1
    assert version.verdict is not None


async def test_the_memory_of_a_deleted_parent_is_gone(engine):
    await merge_into_both(engine)
    assert len(await read_probes(engine, "both")) == 20
    (await engine.delete_adapter("red")).unwrap()
    await teach(engine, "red", TrainingExample("another", "red"))
    assert set((await read_probes(engine, "both")).values()) == {"blue"}


async def test_who_came_from_elsewhere_may_know_more_than_the_journal_tells(engine):
    async def knows_everything(name: str) -> bool:
        adapter = (await engine.get_adapter(name)).unwrap()
        return (await engine._gate.knowledge(adapter)).complete

    files = await engine._backend.initialize(AdapterConfig(), 7)
    (await engine.import_adapter("foreign", files)).unwrap()
    await merge_into_both(engine)
    (await engine.merge_adapters(["red", "foreign"], name="half", anyway=True)).unwrap()
    assert [await knows_everything(name) for name in ("red", "both", "foreign", "half")] == [
        True,
        True,
        False,
        False,
    ]
    (await engine.delete_adapter("red")).unwrap()
    async with AdapterLearningEngine(engine._backend, engine._registry.blocking) as restarted:
        adapter = (await restarted.get_adapter("both")).unwrap()
        assert not (await restarted._gate.knowledge(adapter)).complete, "a parent's journal is gone"


async def test_a_restart_reads_the_same_memory(engine, tmp_path: Path):
    (await engine.pin_answers("blue", rows("blue", 2))).unwrap()
    await merge_into_both(engine)
    await teach(engine, "both", TrainingExample("own", "word"))
    before = (await engine.get_probes("both")).unwrap()
    async with open_engine(tmp_path, FakeBackend()) as restarted:
        assert (await restarted.get_probes("both")).unwrap() == before
