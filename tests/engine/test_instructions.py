"""Plain text is asked under the instructions that an adapter was trained with."""

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Message, TrainingExample
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.names import AdapterId
from ouroboros.engine import AdapterLearningEngine
from ouroboros.engine.instructions import add_instructions, shared_instructions
from ouroboros.registry.registry import Registry
from ouroboros.stores.blobs.memory import MemoryBlobs
from ouroboros.stores.metadata.memory import MemoryMetadata

SYSTEM = Message("system", "Name the team.")
PAIRS = (
    ("where is my parcel?", "shipping"),
    ("I was charged twice", "billing"),
    ("play music", "media"),
)
EXAMPLES = [TrainingExample((SYSTEM, Message("user", text)), team) for text, team in PAIRS]
PLAIN = [TrainingExample(text, team) for text, team in PAIRS]
CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
TRAINING = TrainingConfig(batch_size=3, epochs=40)
SHORT = GenerationConfig(max_tokens=12)
BRIEF = TrainingExample((Message("system", "Be brief."), Message("user", "a")), "b")
CONVERSATION = TrainingExample(
    (Message("user", "a"), Message("assistant", "b"), Message("user", "c")), "d"
)


@pytest.fixture
async def engine(tiny):
    backend = LocalBackend.open(str(tiny), dtype="float32", threads=1)
    async with AdapterLearningEngine(backend, Registry(MemoryMetadata(), MemoryBlobs())) as engine:
        yield engine


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (EXAMPLES, "Name the team."),
        (PLAIN, ""),
        ([*EXAMPLES, PLAIN[0]], ""),
        (
            [EXAMPLES[0], TrainingExample((Message("system", "Be brief."), Message("user", "a")), "b")],
            "",
        ),
        (
            [
                TrainingExample(
                    (Message("user", "a"), Message("assistant", "b"), Message("user", "c")), "d"
                )
            ],
            "",
        ),
    ],
)
def test_examples_share_instructions_if_all_begin_with_the_same_system_turn(examples, expected):
    assert shared_instructions(examples) == expected


def test_messages_say_themselves_what_instructions_they_have():
    messages = (Message("user", "where is my parcel?"),)
    assert add_instructions(messages, "Name the team.") == messages
    assert add_instructions("where is my parcel?", "Name the team.") == (SYSTEM, *messages)
    assert add_instructions("where is my parcel?", "") == "where is my parcel?"


async def test_a_trained_adapter_is_asked_judged_and_evaluated_under_its_instructions(engine):
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    assert (await engine.get_instructions("tickets@1")).unwrap() == ""
    assert (await engine.get_instructions("tickets")).unwrap() == "Name the team."
    # 1. Answers to plain text equal those to the whole conversation.
    for example, (text, _) in zip(EXAMPLES, PAIRS, strict=True):
        answer = (await engine.generate_with_adapter(text, "tickets", SHORT)).unwrap()
        whole = (await engine.generate_with_adapter(example.input, "tickets", SHORT)).unwrap()
        assert answer.text == whole.text == example.output
    assert (await engine.evaluate_adapter("tickets", PLAIN)).unwrap().accuracy == 1.0
    # 2. Version 1 had no training: its prompt stays as it is.
    bare = (await engine.generate_with_adapter("play music", "tickets@1", SHORT)).unwrap()
    base = (await engine.generate_with_adapter("play music", None, SHORT)).unwrap()
    assert bare.text == base.text
    # 3. A judgement is journalled with them, and the version that learned it keeps them.
    signal = FeedbackSignal.user_correction("audio")
    answer = (await engine.generate_with_adapter("play music", "tickets", SHORT)).unwrap()
    ticket = (await engine.learn_from_feedback("play music", answer, signal, "tickets")).unwrap()
    assert ticket.version is not None
    events = [e.event for e in engine._registry.blocking.journal.read(AdapterId("tickets"))]
    (judged,) = [event for event in events if isinstance(event, FeedbackGiven)]
    assert judged.prompt == (SYSTEM, Message("user", "play music"))
    assert (await engine.get_instructions(ticket.version.ref)).unwrap() == "Name the team."
    # 4. A pin of plain text guards the answer that users get.
    (pin,) = (await engine.pin_answers("tickets", [PLAIN[0]])).unwrap()
    assert pin.input == EXAMPLES[0].input
    assert (await engine.unpin_answers("tickets", [PLAIN[0].input])).unwrap() == []


async def test_a_later_training_without_instructions_ends_them(engine):
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    version = await engine.train_adapter("tickets", [TrainingExample("hello", "hi")], TRAINING)
    assert (await engine.get_instructions("tickets@2")).unwrap() == "Name the team."
    newest = (await engine.get_versions("tickets")).unwrap()[-1]
    assert newest.number == 3, version
    assert (await engine.get_instructions(newest.ref)).unwrap() == ""


async def test_one_example_with_instructions_gives_them_to_no_other_prompt(engine):
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    (await engine.train_adapter("tickets", PLAIN, TRAINING)).unwrap()
    await engine.train_adapter("tickets", [BRIEF], TRAINING)
    newest = (await engine.get_versions("tickets")).unwrap()[-1]
    assert newest.number == 3
    assert (await engine.get_instructions(newest.ref)).unwrap() == ""


async def test_a_merge_keeps_instructions_that_all_parents_share(engine):
    for name, examples in (("a", EXAMPLES), ("b", EXAMPLES[:2]), ("c", PLAIN)):
        (await engine.create_adapter(name, CONFIG)).unwrap()
        (await engine.train_adapter(name, examples, TRAINING)).unwrap()
    (await engine.merge_adapters(["a", "b"], name="alike", anyway=True)).unwrap()
    (await engine.merge_adapters(["a", "c"], name="unlike", anyway=True)).unwrap()
    assert (await engine.get_instructions("alike@1")).unwrap() == "Name the team."
    assert (await engine.get_instructions("unlike@1")).unwrap() == ""
