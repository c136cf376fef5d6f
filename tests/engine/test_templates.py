"""Chat templates that refuse conversations, and empty answers, through the engine's verbs."""

import re
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from transformers.utils import chat_template_utils

from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.errors import InvalidExample, ModelError
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.engine import AdapterLearningEngine
from ouroboros.engine.verbs import rebuild
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.testing.tiny import tiny_model

CONFIG = AdapterConfig(learning_rate=1e-2)
TRAINING = TrainingConfig(batch_size=1, epochs=2)
TURNS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
REFUSES_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
)
NEEDS_SYSTEM = (
    "{% if messages[0].role != 'system' %}{{ raise_exception('needs a system turn') }}{% endif %}"
)
NEEDS_ALTERNATION = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
HAS_A_MISTAKE = "{{ messages[0].nothing.more if messages[0].role == 'system' }}"
SYSTEM_FIRST = (Message("system", "Be brief."), Message("user", "hi"))
TWO_USERS = (Message("user", "hi"), Message("user", "there"))

OpenEngine = Callable[[str], AdapterLearningEngine]


@pytest.fixture
async def open_engine(tmp_path: Path) -> AsyncIterator[OpenEngine]:
    engines = []

    def open_with(template: str) -> AdapterLearningEngine:
        folder = tiny_model(tmp_path / "base")
        (folder / "chat_template.jinja").write_text(template + TURNS)
        registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
        engines.append(AdapterLearningEngine(LocalBackend(load_base(str(folder), "float32")), registry))
        return engines[-1]

    yield open_with
    for engine in engines:
        await engine.close()


@pytest.mark.parametrize(
    ("template", "prompt", "words"),
    [
        (REFUSES_SYSTEM, SYSTEM_FIRST, "System role not supported"),
        (NEEDS_ALTERNATION, TWO_USERS, "Conversation roles must alternate"),
        (NEEDS_SYSTEM, "hi", "needs a system turn"),
        (
            "{{ messages[0].nothing.more if messages[0].role == 'system' }}",
            SYSTEM_FIRST,
            "has no attribute",
        ),
    ],
    ids=["refuses system", "alternation", "needs system", "its own mistake"],
)
async def test_a_conversation_that_the_template_refuses_is_an_error_in_its_words(
    open_engine, template, prompt, words
):
    engine = open_engine(template)
    good = (Message("system", "Be brief."), Message("user", "hi"))
    usable = good if template == NEEDS_SYSTEM else "hi"
    (await engine.create_adapter("a", CONFIG)).unwrap()
    rows = [TrainingExample(usable, "hello"), TrainingExample(prompt, "hello")]
    results = {
        "generate": await engine.generate_with_adapter(prompt, "a"),
        "train": await engine.train_adapter("a", rows, TRAINING),
        "evaluate": await engine.evaluate_adapter("a", rows),
        "pin": await engine.pin_answers("a", rows),
        "feedback": await engine.learn_from_feedback(
            prompt, "no", FeedbackSignal.user_correction("hello"), "a"
        ),
    }
    for verb, result in results.items():
        assert isinstance(result.error, InvalidExample), verb
        assert re.search(words, result.error.message), verb
    assert "Row 2" in results["train"].error.message
    assert "Row 2" in results["pin"].error.message


async def test_a_template_that_needs_a_system_turn_trains_on_rows_that_have_one(open_engine):
    engine = open_engine(NEEDS_SYSTEM)
    (await engine.create_adapter("a", CONFIG)).unwrap()
    rows = [TrainingExample(SYSTEM_FIRST, "hello")]
    (await engine.train_adapter("a", rows, TRAINING)).unwrap()
    (await engine.generate_with_adapter(SYSTEM_FIRST, "a")).unwrap()
    fix = FeedbackSignal.user_correction("good day")
    ticket = (await engine.learn_from_feedback(SYSTEM_FIRST, "no", fix, "a")).unwrap()
    outcome = (await engine.feedback_outcome(ticket)).unwrap()
    assert "refuses" not in outcome.lesson.words


async def test_a_template_that_refuses_all_conversations_is_refused_when_it_is_loaded(open_engine):
    with pytest.raises(ModelError, match="No talking"):
        open_engine("{{ raise_exception('No talking') }}")


@pytest.mark.parametrize(
    "signal",
    [
        FeedbackSignal.user_correction("hello"),
        FeedbackSignal.failure(),
        FeedbackSignal.success(),
        FeedbackSignal.preference_pair("hello", ""),
    ],
    ids=lambda signal: signal.kind.value,
)
async def test_an_empty_answer_is_judged_and_learned(open_engine, signal):
    engine = open_engine("")
    (await engine.create_adapter("a", CONFIG)).unwrap()
    ticket = (await engine.learn_from_feedback("say hi", "", signal, "a")).unwrap()
    outcome = (await engine.feedback_outcome(ticket)).unwrap()
    assert outcome.lesson is not None
    for probe in (await engine.get_probes("a")).unwrap():
        (await engine.evaluate_adapter("a", [probe.example])).unwrap()


class Tomorrow(datetime):
    """The clock of the next day."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(days=1)


async def test_a_rebuild_on_another_day_names_the_date_that_the_template_writes(tmp_path, monkeypatch):
    folder = tiny_model(tmp_path / "base")
    (folder / "chat_template.jinja").write_text("Today is {{ strftime_now('%d %b %Y') }}." + TURNS)
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))

    def open_here() -> AdapterLearningEngine:
        return AdapterLearningEngine(LocalBackend(load_base(str(folder), "float32")), registry)

    engine = open_here()
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    (await engine.train_adapter("tickets", [TrainingExample("hi", "hello")], TRAINING)).unwrap()
    today = (await engine.rebuild_version("tickets@2")).unwrap()
    assert (today.identical, today.differs) == (True, ())

    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    monkeypatch.setattr(rebuild, "datetime", Tomorrow)
    next_day = open_here()
    changed = (await next_day.rebuild_version("tickets@2")).unwrap()
    await next_day.close()
    await engine.close()
    assert not changed.identical
    (change,) = changed.differs
    assert re.fullmatch(r"the date in prompts \d{4}-\d\d-\d\d -> \d{4}-\d\d-\d\d", change)
