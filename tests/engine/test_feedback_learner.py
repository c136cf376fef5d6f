"""Learning from feedback, from outside: real tiny model, real SQLite, real files."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from ouroboros.backend.base import TrainOutcome, UpdateJob
from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import BackendError, InvalidExample, NotFound, TooLong, TrainingFailed
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Ticket, Version
from ouroboros.domain.result import Err
from ouroboros.engine import AdapterLearningEngine
from ouroboros.engine.feedback_learner import PROTECTED
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.backend import FakeBackend
from ouroboros.testing.tiny import tiny_model

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
SHORT = GenerationConfig(max_tokens=12)
FIX = FeedbackSignal.user_correction
GOOD, BAD = FeedbackSignal.success(), FeedbackSignal.failure()
LIKED = FeedbackSignal.preference(0.9)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """Wide enough that two corrections need not share their directions."""
    return tiny_model(tmp_path_factory.mktemp("model"), hidden_size=192)


@pytest.fixture
def open_engine(model_folder, tmp_path):
    def open_with(
        limit: UserLimit | None = None, gate: GatePolicy | None = None
    ) -> AdapterLearningEngine:
        registry = Registry(
            open_metadata(f"sqlite:///{tmp_path}/store/metadata.db"),
            open_blobs(f"file://{tmp_path}/store/blobs"),
        )
        backend = LocalBackend.open(str(model_folder), dtype="float32", threads=1)
        return AdapterLearningEngine(backend, registry, limit, gate)

    return open_with


@pytest.fixture
async def engine(open_engine):
    async with open_engine() as engine:
        (await engine.create_adapter("tickets", CONFIG)).unwrap()
        yield engine


async def ask(engine: AdapterLearningEngine, prompt: str, name: str = "tickets") -> str:
    return (await engine.generate_with_adapter(prompt, name, SHORT)).unwrap().text


async def teach(engine, signal, prompt="where is it?", answer="no idea", **how) -> Ticket:
    return (await engine.learn_from_feedback(prompt, answer, signal, "tickets", **how)).unwrap()


def words(ticket: Ticket) -> str:
    assert ticket.lesson is not None
    return ticket.lesson.words


def version_of(ticket: Ticket) -> Version:
    assert ticket.version is not None
    return ticket.version


def error_of(result) -> Exception:
    assert isinstance(result, Err), result
    return result.error


async def test_a_correction_is_what_the_adapter_says_next(engine):
    prompt = "where is my parcel?"
    before = (await engine.generate_with_adapter(prompt, "tickets", SHORT)).unwrap()
    ticket = (await engine.learn_from_feedback(prompt, before, FIX("shipping"), "tickets")).unwrap()
    assert await ask(engine, prompt) == "shipping"
    assert words(ticket) == "correction -> SFT + DPO against the replaced answer"
    assert (version_of(ticket).number, version_of(ticket).parent, version_of(ticket).cause) == (
        2,
        1,
        "feedback",
    )
    assert version_of(ticket).lessons == (ticket.lesson,)


async def test_the_second_correction_keeps_the_first(engine):
    await teach(engine, FIX("shipping"), "where is my parcel?")
    await teach(engine, FIX("billing"), "I was charged twice")
    assert await ask(engine, "where is my parcel?") == "shipping"
    assert await ask(engine, "I was charged twice") == "billing"


@pytest.mark.parametrize(("signal", "up"), [(BAD, False), (GOOD, True), (LIKED, True)])
async def test_blame_makes_an_answer_less_likely_and_praise_more(engine, signal, up):
    await teach(engine, signal, "play music", "media")
    judged = [TrainingExample("play music", "media")]
    before, after = [
        (await engine.evaluate_adapter(f"tickets@{n}", judged)).unwrap().mean_logprob for n in (1, 2)
    ]
    assert (after > before) is up


async def test_the_journal_keeps_who_when_and_what_answered(engine):
    answer = (await engine.generate_with_adapter("hello", "tickets", SHORT)).unwrap()
    await engine.learn_from_feedback("hello", answer, FIX("hi"), "tickets", user="ann", key="k1")
    (entry,) = engine._registry.blocking.journal.read(AdapterId("tickets"))
    event = entry.event
    assert (event.user, event.key, event.answered) == ("ann", "k1", "tickets@1")
    assert event.logprobs == answer.logprobs
    assert event.at.tzinfo is not None


async def test_a_ticket_is_given_at_once_and_kept(engine):
    ticket = await teach(engine, FIX("shipping"), wait=False)
    assert ticket.version is None
    done = (await engine.feedback_outcome(ticket)).unwrap()
    assert version_of(done).number == 2
    assert await ask(engine, "where is it?") == "shipping"


async def test_what_arrives_together_is_learned_together_and_in_order(engine):
    async with engine._locks[AdapterId("tickets")]:
        tickets = [
            await teach(engine, FIX(word), f"say {word}", wait=False)
            for word in ("red", "blue", "green")
        ]
    done = [(await engine.feedback_outcome(t)).unwrap() for t in tickets]
    assert {version_of(t).number for t in done} == {2}
    assert [lesson.event for lesson in version_of(done[0]).lessons] == [t.event for t in tickets]
    assert [await ask(engine, f"say {w}") for w in ("red", "blue", "green")] == ["red", "blue", "green"]


async def test_the_latest_of_two_corrections_wins_visibly(engine):
    async with engine._locks[AdapterId("tickets")]:
        first = await teach(engine, FIX("red"), wait=False)
        await teach(engine, FIX("blue"), wait=False)
    done = (await engine.feedback_outcome(first)).unwrap()
    assert "superseded" in words(done)
    assert await ask(engine, "where is it?") == "blue"
    later = await teach(engine, FIX("green"))
    assert words(later).endswith("replaces what event 2 taught")


async def test_the_same_key_is_learned_once(engine):
    first = await teach(engine, FIX("red"), key="once")
    second = await teach(engine, FIX("red"), key="once")
    assert second.event == first.event
    assert version_of(second).number == version_of(first).number == 2
    assert len(engine._registry.blocking.journal.read(AdapterId("tickets"))) == 1


async def test_the_same_click_twice_is_one_event_but_a_new_answer_is_judged_anew(engine):
    answer = (await engine.generate_with_adapter("hello", "tickets", SHORT)).unwrap()
    tickets = [
        (await engine.learn_from_feedback("hello", answer, BAD, "tickets")).unwrap() for _ in "ab"
    ]
    assert tickets[0].event == tickets[1].event
    newer = (await engine.generate_with_adapter("hello", "tickets", SHORT)).unwrap()
    third = (await engine.learn_from_feedback("hello", newer, BAD, "tickets")).unwrap()
    assert third.event != tickets[0].event


async def test_what_teaches_nothing_makes_no_version(engine):
    ticket = await teach(engine, FeedbackSignal.critique("too curt"))
    assert version_of(ticket).number == 1
    assert "kept for the record" in words(ticket)


async def test_a_correction_equal_to_the_answer_is_recorded_as_success(engine):
    ticket = await teach(engine, FIX("fine"), answer="fine")
    assert "recorded as success" in words(ticket)


async def test_a_limit_is_said_and_loses_nothing(open_engine):
    async with open_engine(UserLimit(events=1)) as engine:
        (await engine.create_adapter("tickets", CONFIG)).unwrap()
        await teach(engine, FIX("red"), "a", user="mallory")
        limited = await teach(engine, FIX("blue"), "b", user="mallory")
        other = await teach(engine, FIX("green"), "c", user="ann")
        assert "limit for one person" in words(limited)
        assert version_of(limited).number == 2
        assert version_of(other).number == 3
        assert len(engine._registry.blocking.journal.read(AdapterId("tickets"))) == 3


async def test_outcomes_are_found_again_after_a_restart(open_engine, engine):
    ticket = await teach(engine, FIX("red"))
    noted = await teach(engine, FeedbackSignal.critique("hm"))
    async with open_engine() as later:
        for earlier in (ticket, noted):
            outcome = (await later.feedback_outcome(Ticket(earlier.adapter, earlier.event))).unwrap()
            assert outcome.lesson == earlier.lesson


async def test_pending_feedback_is_learned_by_the_next_run(open_engine, engine):
    async with engine._locks[AdapterId("tickets")]:
        await teach(engine, FIX("red"), wait=False)
        await engine._feedback_learner.close()
    async with open_engine() as later:
        (moved,) = (await later.learn_pending()).unwrap()
        assert (moved.head, moved.applied) == (2, 1)
        assert (await later.learn_pending()).unwrap() == []


async def test_a_namesake_does_not_inherit_feedback(engine):
    await teach(engine, FIX("red"))
    (await engine.delete_adapter("tickets")).unwrap()
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    assert (await engine.learn_pending()).unwrap() == []
    ticket = await teach(engine, FIX("blue"))
    assert "replaces" not in words(ticket)


async def test_feedback_waits_for_a_training_and_builds_on_it(engine):
    examples = [TrainingExample("play some music", "media")]
    training = engine.train_adapter("tickets", examples, TrainingConfig(batch_size=1, epochs=30))
    await asyncio.gather(training, teach(engine, FIX("shipping")))
    versions = (await engine.get_versions("tickets")).unwrap()
    assert [v.parent for v in versions] == [None, 1, 2]
    assert await ask(engine, "play some music") == "media"
    assert await ask(engine, "where is it?") == "shipping"


async def test_two_engines_on_one_store_apply_every_event_once(open_engine, engine):
    async with open_engine() as other:
        words = [f"w{i}" for i in range(6)]
        await asyncio.gather(
            *(teach(e, FIX(w), f"say {w}") for w, e in zip(words, [engine, other] * 3, strict=True))
        )
        versions = (await engine.get_versions("tickets")).unwrap()
    line = {v.number: v for v in versions}
    at, learned = (await engine.get_adapter("tickets")).unwrap().head, []
    while at is not None:
        learned += [lesson.event for lesson in line[at].lessons]
        at = line[at].parent
    assert sorted(learned) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("prompt", "answer", "signal"),
    [
        (" ", "a", GOOD),
        ("p", "a", FIX(" ")),
        ("p", "a", FeedbackSignal.success(float("nan"))),
        ("p", "a", FIX("x" * 1_000_000)),
        ("p", "a", FeedbackSignal.preference_pair("same", "same")),
        ("p\ud800", "a", GOOD),
    ],
)
async def test_bad_input_is_refused_before_anything_is_written(engine, prompt, answer, signal):
    result = await engine.learn_from_feedback(prompt, answer, signal, "tickets")
    assert isinstance(error_of(result), InvalidExample)
    assert engine._registry.blocking.journal.read(AdapterId("tickets")) == []


async def test_text_longer_than_the_context_is_refused(engine):
    result = await engine.learn_from_feedback("p", "a", FIX("word " * 2000), "tickets")
    assert isinstance(error_of(result), TooLong)
    assert engine._registry.blocking.journal.read(AdapterId("tickets")) == []


async def test_answers_of_others_and_deleted_adapters_are_refused(engine):
    (await engine.create_adapter("other", CONFIG)).unwrap()
    answer = (await engine.generate_with_adapter("hello", "other", SHORT)).unwrap()
    result = await engine.learn_from_feedback("hello", answer, GOOD, "tickets")
    assert "came from other@1" in str(error_of(result))
    (await engine.delete_adapter("other")).unwrap()
    result = await engine.learn_from_feedback("hello", answer, GOOD, "other")
    assert isinstance(error_of(result), NotFound)


async def test_a_thousand_events_at_once_are_all_kept_and_learned_in_order(engine):
    """Notes, and among them corrections of two prompts that change their mind again and again."""
    prompts, answers = ("where is it?", "who are you?"), ("shipping", "billing", "returns")
    corrections = {i: (prompts[i // 20 % 2], answers[i // 20 % 3]) for i in range(0, 1000, 20)}

    def event(i: int):
        if i in corrections:
            prompt, text = corrections[i]
            return teach(engine, FIX(text), prompt, f"no idea {i}", wait=False)
        return teach(engine, FeedbackSignal.critique(f"note {i}"), wait=False)

    async with engine._locks[AdapterId("tickets")]:
        tickets = await asyncio.gather(*(event(i) for i in range(1000)))
    assert sorted(t.event for t in tickets) == list(range(1, 1001))
    done = [(await engine.feedback_outcome(t)).unwrap() for t in tickets]
    assert (await engine.get_adapter("tickets")).unwrap().applied == 1000
    learned = [
        lesson.event
        for version in (await engine.get_versions("tickets")).unwrap()
        for lesson in version.lessons
        if lesson.learned
    ]
    assert learned == sorted(set(learned))
    assert all(ticket.lesson is not None for ticket in done)
    latest = {
        prompt: text
        for _, (prompt, text) in sorted((tickets[i].event, answer) for i, answer in corrections.items())
    }
    assert {prompt: await ask(engine, prompt) for prompt in prompts} == latest


async def test_an_event_that_cannot_be_learned_is_passed_over_alone(engine, monkeypatch):
    """A loss that is not finite, for one of three prompts."""
    train = engine._backend.train

    async def fragile(job, *arguments, **named):
        if any(row.prompt == "poison" for row in job.rows):
            raise TrainingFailed("The loss was nan.")
        return await train(job, *arguments, **named)

    monkeypatch.setattr(engine._backend, "train", fragile)
    async with engine._locks[AdapterId("tickets")]:
        tickets = [await teach(engine, FIX("x"), p, wait=False) for p in ("a", "poison", "b")]
    done = [(await engine.feedback_outcome(t)).unwrap() for t in tickets]
    assert words(done[1]) == "not learned: The loss was nan."
    assert [words(done[i]).partition(" ")[0] for i in (0, 2)] == ["correction"] * 2
    assert (await engine.get_adapter("tickets")).unwrap().applied == 3


async def test_a_fault_that_is_not_the_events_leaves_it_pending(engine, monkeypatch):
    async def raise_error(job, *arguments, **named):
        raise BackendError("Out of memory.")

    with monkeypatch.context() as patch:
        patch.setattr(engine._backend, "train", raise_error)
        result = await engine.learn_from_feedback("p", "a", FIX("b"), "tickets")
    assert isinstance(error_of(result), BackendError)
    (moved,) = (await engine.learn_pending()).unwrap()
    assert (moved.head, moved.applied) == (2, 1)


async def test_a_lesson_that_the_gate_refuses_is_said_and_not_served(open_engine):
    """No adapter may move its base this little: every update is refused."""
    async with open_engine(gate=GatePolicy(strength=1e-3)) as engine:
        (await engine.create_adapter("tickets", CONFIG)).unwrap()
        before = await ask(engine, "where is it?")
        ticket = await teach(engine, FIX("shipping"))
        assert words(ticket) == (
            "not learned, the gate refused it (strength):"
            " correction -> SFT + DPO against the replaced answer"
        )
        assert version_of(ticket).number == 1
        assert await ask(engine, "where is it?") == before
        assert (await engine.learn_pending()).unwrap() == []
    async with open_engine() as later:
        outcome = (await later.feedback_outcome(Ticket(ticket.adapter, ticket.event))).unwrap()
        assert (outcome.lesson, version_of(outcome).number) == (ticket.lesson, 1)


async def test_an_answer_of_a_version_that_never_was_is_refused(engine):
    answer = (await engine.generate_with_adapter("hello", "tickets", SHORT)).unwrap()
    unknown = replace(answer, version="tickets@99")
    result = await engine.learn_from_feedback("hello", unknown, GOOD, "tickets")
    assert isinstance(error_of(result), NotFound)
    assert engine._registry.blocking.journal.read(AdapterId("tickets")) == []


class WatchedBackend(FakeBackend):
    """Remembers the careful updates it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.updates: list[UpdateJob] = []

    async def update(self, job: UpdateJob, *args: Any, **how: Any) -> TrainOutcome:
        self.updates.append(job)
        return await super().update(job, *args, **how)


async def test_the_first_correction_after_a_training_protects_what_was_trained():
    backend = WatchedBackend()
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    async with AdapterLearningEngine(backend, registry) as engine:
        (await engine.create_adapter("tickets")).unwrap()
        examples = [TrainingExample(f"ticket {i}", "mail") for i in range(40)]
        (await engine.train_adapter("tickets", examples)).unwrap()
        await teach(engine, FIX("phone"), "ticket 3", "mail")
        (job,) = backend.updates
        protected = {e.input for e in job.protect} & {e.input for e in examples}
        assert len(protected) == PROTECTED
        assert "ticket 3" not in protected


async def test_an_imported_adapter_is_corrected_with_care():
    """What it knows is not in the journal, so there is too little to rehearse."""
    backend = WatchedBackend()
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    async with AdapterLearningEngine(backend, registry) as engine:
        files = await backend.initialize(AdapterConfig(), 0)
        (await engine.import_adapter("tickets", files)).unwrap()
        await teach(engine, FIX("phone"))
        assert len(backend.updates) == 1
