"""The gate around training and feedback, on a backend that learns by heart."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ouroboros.backend.base import Score, ScoreRequest, TrainJob, TrainOutcome
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.errors import Refused
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.performance import GateCounts
from ouroboros.domain.records import Ticket, Version
from ouroboros.domain.result import Err
from ouroboros.domain.training import OnProgress
from ouroboros.domain.verdict import CheckName, Repair, Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine import AdapterLearningEngine
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend

FIX = FeedbackSignal.user_correction
PIN = TrainingExample("where is it?", "shipping")
FIRST = (PIN, TrainingExample("charged twice", "billing"))


class Listening(FakeBackend):
    """Remembers which adapter was asked what, and which were asked together."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[ScoreRequest] = []
        self.together: list[set[str | None]] = []

    async def score(
        self, requests: Sequence[ScoreRequest], cancel: CancellationToken | None = None
    ) -> list[Score]:
        self.asked += requests
        self.together.append({r.adapter for r in requests})
        return await super().score(requests, cancel)


class Mending(FakeBackend):
    """Loses a pin whatever it is taught, but where a candidate is mended by the repair that is named."""

    def __init__(self, repair: Repair) -> None:
        super().__init__()
        self.repair = repair
        self.job: TrainJob | None = None

    async def train(
        self,
        job: TrainJob,
        on_progress: OnProgress | None = None,
        cancel: CancellationToken | None = None,
    ) -> TrainOutcome:
        if self.job is not None and self.repair is Repair.AGAIN:
            return await super().train(job)
        self.job = job
        return await super().train(replace(job, rows=(*job.rows, Row(PIN.input, "lost"))))

    async def interpolate(self, start: AdapterFiles, end: AdapterFiles, share: float) -> AdapterFiles:
        if self.repair is not Repair.WALKED or self.job is None:
            return await super().interpolate(start, end, share)
        return (await super().train(self.job)).files


@pytest.fixture
def open_engine(tmp_path: Path) -> Callable[..., AdapterLearningEngine]:
    def open_with(backend: FakeBackend | None = None, **policy: float) -> AdapterLearningEngine:
        registry = Registry(
            open_metadata(f"sqlite:///{tmp_path}/metadata.db"), open_blobs(f"file://{tmp_path}/blobs")
        )
        return AdapterLearningEngine(backend or FakeBackend(), registry, gate=GatePolicy(**policy))

    return open_with


@pytest.fixture
async def engine(open_engine):
    async with open_engine() as engine:
        (await engine.create_adapter("tickets")).unwrap()
        yield engine


async def train_examples(engine: AdapterLearningEngine, *examples: TrainingExample) -> Version:
    return (await engine.train_adapter("tickets", examples)).unwrap()


async def correct_answer(
    engine: AdapterLearningEngine, prompt: str, to: str, wait: bool = True
) -> Ticket:
    return (await engine.learn_from_feedback(prompt, "no idea", FIX(to), "tickets", wait=wait)).unwrap()


async def answer(engine: AdapterLearningEngine, prompt: str, name: str = "tickets") -> str:
    return (await engine.generate_with_adapter(prompt, name)).unwrap().text


async def versions(engine: AdapterLearningEngine) -> list[Version]:
    return (await engine.get_versions("tickets")).unwrap()


async def read_knowledge(engine: AdapterLearningEngine) -> dict:
    probes = (await engine.get_probes("tickets")).unwrap()
    return {probe.example.input: probe.example.output for probe in probes}


def verdict_of(version: Version) -> Verdict:
    assert version.verdict is not None
    return version.verdict


async def test_a_promoted_version_carries_its_verdict(engine):
    await train_examples(engine, *FIRST)
    verdict = verdict_of(await train_examples(engine, TrainingExample("play", "media")))
    assert verdict.promoted
    check = verdict.find_check(CheckName.KNOWN)
    assert check is not None and check.answers is not None
    assert (check.answers.rows, check.answers.after, check.lost) == (2, 1.0, ())


async def test_a_training_that_loses_a_pin_is_kept_unserved(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    result = await engine.train_adapter("tickets", [TrainingExample("where is it?", "lost")])
    assert isinstance(result, Err)
    assert isinstance(result.error, Refused)
    assert "tickets@3 is kept but not served, it failed: pinned" in str(result.error)
    assert (await engine.get_adapter("tickets")).unwrap().head == 2
    assert await answer(engine, "where is it?") == "shipping"
    tried = [attempt.what for attempt in verdict_of((await versions(engine))[-1]).attempts]
    assert "trained again, more gently" in tried


@pytest.mark.parametrize(("repair", "counted"), [(Repair.WALKED, "walked"), (Repair.AGAIN, "again")])
async def test_what_a_repair_saved_is_told_and_counted(open_engine, repair, counted):
    async with open_engine() as engine:
        (await engine.create_adapter("tickets")).unwrap()
        await train_examples(engine, *FIRST)
        (await engine.pin_answers("tickets", [PIN])).unwrap()
        await engine.train_adapter("tickets", [replace(PIN, output="lost")])
    async with open_engine(Mending(repair)) as engine:
        version = await train_examples(engine, TrainingExample("play", "media"))
        assert verdict_of(version).saved_by is repair
        assert await answer(engine, "play") == "media"
        gated = (await engine.track_adapter("tickets")).unwrap().gate_counts
        assert gated == replace(GateCounts(passed=1, refused=1), **{counted: 1})
        assert gated.judged == 3


async def test_a_refused_version_can_be_served_by_hand(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    await engine.train_adapter("tickets", [TrainingExample("where is it?", "lost")])
    (await engine.rollback_adapter("tickets@3")).unwrap()
    assert await answer(engine, "where is it?") == "lost"


async def test_feedback_that_loses_a_pin_is_refused_with_a_reason(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    ticket = await correct_answer(engine, "where is it?", "lost")
    assert ticket.lesson is not None
    assert not ticket.lesson.learned
    assert ticket.lesson.words.startswith("not learned, the gate refused it (pinned)")
    assert ticket.version is not None and ticket.version.number == 2
    assert await answer(engine, "where is it?") == "shipping"
    last = (await versions(engine))[-1]
    assert last.refused
    assert {c.name for c in verdict_of(last).failed_checks} >= {CheckName.PINNED}
    assert [a.what for a in verdict_of(last).attempts][:2] == ["as trained", "50.0% of the way"]
    assert (await engine.learn_pending("tickets")).unwrap() == []


async def test_what_was_refused_is_neither_replayed_nor_asked(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    await engine.train_adapter("tickets", [TrainingExample("where is it?", "lost")])
    assert await read_knowledge(engine) == {"where is it?": "shipping", "charged twice": "billing"}


async def test_teaching_a_known_prompt_anew_is_no_loss(engine):
    await train_examples(engine, *FIRST)
    ticket = await correct_answer(engine, "charged twice", "refunds")
    assert ticket.version is not None and ticket.version.number == 3
    assert (await read_knowledge(engine))["charged twice"] == "refunds"
    await train_examples(engine, TrainingExample("charged twice", "billing"))
    assert await answer(engine, "charged twice") == "billing"


async def test_one_bad_event_does_not_take_the_others_with_it(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    async with engine._locks[(await engine.get_adapter("tickets")).unwrap().id]:
        tickets = [
            await correct_answer(engine, prompt, to, wait=False)
            for prompt, to in (("say red", "red"), ("where is it?", "lost"), ("say blue", "blue"))
        ]
    done = [(await engine.feedback_outcome(ticket)).unwrap() for ticket in tickets]
    assert [t.lesson.learned for t in done if t.lesson] == [True, False, True]
    answers = [await answer(engine, p) for p in ("say red", "where is it?", "say blue")]
    assert answers == ["red", "shipping", "blue"]


async def test_a_rolled_back_line_knows_what_it_knew(engine):
    await train_examples(engine, *FIRST)
    await train_examples(engine, TrainingExample("play", "media"))
    assert len(await read_knowledge(engine)) == 3
    (await engine.rollback_adapter("tickets@2")).unwrap()
    assert await read_knowledge(engine) == {"where is it?": "shipping", "charged twice": "billing"}
    (await engine.rollback_adapter("tickets@3")).unwrap()
    assert len(await read_knowledge(engine)) == 3


async def test_knowledge_read_again_is_the_same(engine, open_engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [TrainingExample("hello", "hi")])).unwrap()
    await correct_answer(engine, "charged twice", "refunds")
    before = (await engine.get_probes("tickets")).unwrap()
    async with open_engine() as restarted:
        assert (await restarted.get_probes("tickets")).unwrap() == before


async def test_a_parent_is_asked_once_even_by_another_process(engine, open_engine):
    await train_examples(engine, *FIRST)
    await train_examples(engine, TrainingExample("play", "media"))
    backend = Listening()
    async with open_engine(backend) as other:
        parent = (await versions(other))[-1].digest
        (await other.train_adapter("tickets", [TrainingExample("stop", "media")])).unwrap()
    scored_prompts = [r.prompt for r in backend.asked if r.adapter == parent]
    assert "where is it?" not in scored_prompts, "its answers were kept when it was judged itself"
    assert "stop" in scored_prompts


async def test_what_a_parent_is_asked_shares_the_candidate_s_pass(open_engine):
    async with open_engine(backend := Listening()) as engine:
        (await engine.create_adapter("tickets")).unwrap()
        await train_examples(engine, *FIRST)
        backend.together.clear()
        await correct_answer(engine, "play", "media")
    assert [len(adapters) for adapters in backend.together] == [2]


async def test_answers_are_compared_with_how_they_were_when_learned(engine, open_engine):
    """Through all the trainings that follow."""
    await train_examples(engine, *FIRST)
    for i in range(3):
        await train_examples(engine, TrainingExample(f"play {i}", "media"))
    async with open_engine() as restarted:
        head = (await versions(restarted))[-1]
        standing = restarted._registry.blocking.scores.get(head.adapter, head.digest)
    assert set(standing.learned_by_probe()) >= set(standing.answers_by_probe())
    assert len(standing.learned_by_probe()) == len(FIRST) + 3 - 1, "the last one was not asked yet"
    assert all(answer.said for answer in standing.learned_by_probe().values())


async def test_pins_are_listed_limited_to_the_model_and_let_go(engine):
    pins = (await engine.pin_answers("tickets", [PIN, TrainingExample("hello", "hi")])).unwrap()
    assert pins == [PIN, TrainingExample("hello", "hi")]
    assert (await engine.unpin_answers("tickets", ["hello"])).unwrap() == [PIN]
    assert isinstance(await engine.unpin_answers("tickets", ["hello"]), Err)
    assert isinstance(await engine.pin_answers("tickets", [TrainingExample("x " * 2000, "y")]), Err)
    assert isinstance(await engine.pin_answers("tickets", []), Err)
    assert isinstance(await engine.pin_answers("nobody", [PIN]), Err)


async def test_the_explanation_names_what_was_lost(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    await correct_answer(engine, "where is it?", "lost")
    lines = "\n".join((await engine.explain_version("tickets@3")).unwrap().lines)
    assert "tickets@3, feedback from @2: refused, stored but not served." in lines
    assert "FAILED  pinned    0 of 1 pinned answers right (1 before)" in lines
    assert 'lost: "where is it?" -> shipping' in lines
    assert "as trained: failed pinned" in lines


async def test_a_version_without_a_verdict_says_so(engine):
    explanation = (await engine.explain_version("tickets@1")).unwrap()
    assert explanation.lines == ("tickets@1: created, and never judged.",)


async def test_what_was_erased_is_explained_without_its_text(engine):
    await train_examples(engine, *FIRST)
    (await engine.pin_answers("tickets", [PIN])).unwrap()
    await correct_answer(engine, "where is it?", "lost")
    engine._registry.blocking.journal.erase((await engine.get_adapter("tickets")).unwrap().id, 2, 2)
    lines = "\n".join((await engine.explain_version("tickets@3")).unwrap().lines)
    assert "lost: row 1 of event 2, which was erased" in lines
    assert "shipping" not in lines


async def test_a_deleted_adapter_leaves_no_scores(engine):
    await train_examples(engine, *FIRST)
    adapter = (await engine.get_adapter("tickets")).unwrap().id
    head = (await versions(engine))[-1]
    assert engine._registry.blocking.scores.get(adapter, head.digest).drift is not None
    (await engine.delete_adapter("tickets")).unwrap()
    assert engine._registry.blocking.scores.get(adapter, head.digest).drift is None
