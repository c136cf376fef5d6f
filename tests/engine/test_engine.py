"""The engine from outside: real tiny model, real SQLite, real files."""

import asyncio

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import (
    AlreadyExists,
    BaseMismatch,
    Cancelled,
    InvalidConfig,
    InvalidExample,
    InvalidName,
    NotFound,
    TooLong,
    UnknownTarget,
)
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.result import Err, Ok
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata
from ouroboros.sync import SyncEngine
from ouroboros.testing.tiny import tiny_model

EXAMPLES = (
    TrainingExample("where is my parcel?", "shipping"),
    TrainingExample("I was charged twice", "billing"),
    TrainingExample("play some music", "media"),
)
CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
TRAINING = TrainingConfig(batch_size=3, epochs=40)
SHORT = GenerationConfig(max_tokens=12)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def open_engine(model_folder, tmp_path):
    def open_folder(folder=model_folder) -> AdapterLearningEngine:
        registry = Registry(
            open_metadata(f"sqlite:///{tmp_path}/store/metadata.db"),
            open_blobs(f"file://{tmp_path}/store/blobs"),
        )
        return AdapterLearningEngine(
            LocalBackend.open(str(folder), dtype="float32", threads=1), registry
        )

    return open_folder


@pytest.fixture
async def engine(open_engine):
    async with open_engine() as engine:
        yield engine


async def create_and_train(engine: AdapterLearningEngine, name: str = "tickets") -> None:
    (await engine.create_adapter(name, CONFIG)).unwrap()


def error_of(result) -> Exception:
    assert isinstance(result, Err), result
    return result.error


async def test_without_settings_they_are_chosen_by_the_base_and_the_number_of_examples(engine):
    adapter = (await engine.create_adapter("plain")).unwrap()
    assert adapter.config == AdapterConfig.auto((await engine.base()).unwrap())
    version = (await engine.train_adapter("plain", EXAMPLES)).unwrap()
    assert version.training == TrainingConfig.auto(len(EXAMPLES))
    assert version.report.steps == TrainingConfig.auto(len(EXAMPLES)).count_steps(len(EXAMPLES), 10**6)


async def test_create_train_generate(engine):
    await create_and_train(engine)
    version = (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    assert (version.number, version.parent, version.cause) == (2, 1, "trained")
    assert version.report.final_loss < version.report.first_loss
    for example in EXAMPLES:
        generation = (await engine.generate_with_adapter(example.input, "tickets", SHORT)).unwrap()
        assert generation.text == example.output
        assert generation.version == "tickets@2"


async def test_every_version_stays_addressable(engine):
    await create_and_train(engine)
    base = (await engine.generate_with_adapter("play", None, SHORT)).unwrap()
    (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    first = (await engine.generate_with_adapter("play", "tickets@1", SHORT)).unwrap()
    assert first.tokens == base.tokens
    assert (await engine.generate_with_adapter("play", VersionRef(AdapterId("tickets"), 2), SHORT)).ok


async def test_a_promoted_version_answers_the_very_next_request(engine):
    await create_and_train(engine)
    before = (await engine.generate_with_adapter("play some music", "tickets", SHORT)).unwrap()
    (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    after = (await engine.generate_with_adapter("play some music", "tickets", SHORT)).unwrap()
    assert (before.version, after.version) == ("tickets@1", "tickets@2")
    assert before.text != after.text == "media"


async def test_evaluation_counts_right_answers(engine):
    await create_and_train(engine)
    before = (await engine.evaluate_adapter("tickets", EXAMPLES)).unwrap()
    (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    after = (await engine.evaluate_adapter("tickets", EXAMPLES)).unwrap()
    assert (before.accuracy, after.accuracy) == (0.0, 1.0)
    assert after.answers == tuple(e.output for e in EXAMPLES)
    assert after.mean_logprob > before.mean_logprob


async def test_evaluation_compares_whole_answers_however_long_and_however_written(engine):
    """A limit on generated tokens decides nothing, nor does how the tokenizer writes an accent."""
    long = TrainingExample(
        "tell me all", "one two three four five six seven eight nine ten " * 3 + "end"
    )
    assert len(long.output) > 64
    decomposed = TrainingExample("where do I eat?", "cafe\u0301")
    examples = (long, decomposed)
    await create_and_train(engine)
    training = TrainingConfig(batch_size=2, epochs=150)
    await engine.train_adapter("tickets", examples, training)
    newest = (await engine.get_versions("tickets")).unwrap()[-1]
    evaluation = (await engine.evaluate_adapter(newest.ref, examples)).unwrap()
    assert evaluation.right == (True, True)
    answer = await engine.generate_with_adapter(
        "tell me all", newest.ref, GenerationConfig(max_tokens=200)
    )
    assert answer.unwrap().text == long.output


async def test_evaluation_shows_the_whole_wrong_answer(engine):
    await create_and_train(engine)
    example = TrainingExample("play some music", "word " * 60 + "end")
    evaluation = (await engine.evaluate_adapter("tickets", [example])).unwrap()
    limit = GenerationConfig(max_tokens=400)
    answer = (await engine.generate_with_adapter("play some music", "tickets", limit)).unwrap().text
    assert evaluation.right == (False,)
    assert answer.startswith(evaluation.answers[0])
    assert len(evaluation.answers[0]) > 0


async def test_what_was_learned_survives_a_restart(open_engine):
    async with open_engine() as engine:
        await create_and_train(engine)
        (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
    async with open_engine() as engine:
        generation = (await engine.generate_with_adapter("play some music", "tickets", SHORT)).unwrap()
    assert generation.text == "media"


async def test_two_engines_on_one_store_see_each_other(open_engine):
    async with open_engine() as one, open_engine() as two:
        await create_and_train(one)
        assert [a.id.name for a in (await two.list_adapters()).unwrap()] == ["tickets"]
        (await two.train_adapter("tickets", EXAMPLES, TRAINING)).unwrap()
        generation = (await one.generate_with_adapter("play some music", "tickets", SHORT)).unwrap()
    assert generation.version == "tickets@2"


async def test_examples_are_journalled_even_when_training_is_cancelled(engine):
    await create_and_train(engine)
    token = CancellationToken()
    result = await engine.train_adapter(
        "tickets", EXAMPLES, TRAINING, on_progress=lambda _: token.cancel(), cancel=token
    )
    assert isinstance(error_of(result), Cancelled)
    (entry,) = engine._registry.blocking.journal.read(AdapterId("tickets"))
    assert entry.event.examples == EXAMPLES


async def test_a_cancelled_training_leaves_the_adapter_as_it_was(engine):
    await create_and_train(engine)
    token, steps = CancellationToken(), []

    def stop(progress):
        steps.append(progress.step)
        token.cancel()

    await engine.train_adapter("tickets", EXAMPLES, TRAINING, on_progress=stop, cancel=token)
    assert steps == [1]
    assert (await engine.get_adapter("tickets")).unwrap().head == 1
    assert len((await engine.get_versions("tickets")).unwrap()) == 1


async def test_a_cancelled_task_leaves_the_adapter_as_it_was(engine):
    await create_and_train(engine)
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(
        engine.train_adapter(
            "tickets",
            EXAMPLES,
            TrainingConfig(epochs=10_000),
            on_progress=lambda _: loop.call_soon_threadsafe(started.set),
        )
    )
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await engine.get_adapter("tickets")).unwrap().head == 1
    assert (await engine.train_adapter("tickets", EXAMPLES, TRAINING)).ok


async def test_trainings_of_one_adapter_queue_up(engine):
    await create_and_train(engine)
    results = await asyncio.gather(
        *(engine.train_adapter("tickets", EXAMPLES, TrainingConfig(batch_size=3)) for _ in range(3))
    )
    assert [r.unwrap().number for r in results] == [2, 3, 4]
    assert [r.unwrap().parent for r in results] == [1, 2, 3]


async def test_an_unknown_adapter_is_never_answered_by_the_base(engine):
    result = await engine.generate_with_adapter("play", "nobody", SHORT)
    assert isinstance(error_of(result), NotFound)
    pieces = [p async for p in engine.stream_with_adapter("play", "nobody", SHORT)]
    assert isinstance(error_of(pieces[-1]), NotFound)


async def test_an_unknown_version_is_an_error(engine):
    await create_and_train(engine)
    assert isinstance(error_of(await engine.generate_with_adapter("play", "tickets@9", SHORT)), NotFound)


async def test_a_stream_joins_to_the_answer(engine):
    await create_and_train(engine)
    whole = (await engine.generate_with_adapter("play", "tickets", SHORT)).unwrap()
    pieces = [p.unwrap() async for p in engine.stream_with_adapter("play", "tickets", SHORT)]
    assert "".join(p.text for p in pieces) == whole.text
    assert pieces[-1].generation == whole


async def test_a_name_can_be_taken_once(engine):
    await create_and_train(engine)
    assert isinstance(error_of(await engine.create_adapter("tickets", CONFIG)), AlreadyExists)


async def test_numbers_are_not_reused_after_deletion(engine):
    await create_and_train(engine)
    (await engine.delete_adapter("tickets")).unwrap()
    assert isinstance(error_of(await engine.get_adapter("tickets")), NotFound)
    assert (await engine.create_adapter("tickets", CONFIG)).unwrap().head == 2


@pytest.mark.parametrize("name", ["", "  ", "x" * 10_000, "a\nb", "a@2", "\x00", " padded "])
async def test_names_that_cannot_be_addressed_are_refused(engine, name):
    assert isinstance(error_of(await engine.create_adapter(name)), InvalidName)
    assert (await engine.list_adapters()).unwrap() == []


@pytest.mark.parametrize(
    "config",
    [
        AdapterConfig(rank=0),
        AdapterConfig(rank=100_000),
        AdapterConfig(learning_rate=float("nan")),
        AdapterConfig(learning_rate=-1.0),
        AdapterConfig(max_steps=0),
        AdapterConfig(alpha=float("inf")),
        AdapterConfig(target_modules=""),
        AdapterConfig(rank=True),
    ],
)
async def test_shapes_out_of_range_are_refused(engine, config):
    assert isinstance(error_of(await engine.create_adapter("tickets", config)), InvalidConfig)
    assert (await engine.list_adapters()).unwrap() == []


async def test_targets_that_match_nothing_list_what_there_is(engine):
    error = error_of(await engine.create_adapter("tickets", AdapterConfig(target_modules="wq")))
    assert isinstance(error, UnknownTarget)
    assert "q_proj" in str(error)
    assert (await engine.list_adapters()).unwrap() == []


@pytest.mark.parametrize(
    "config",
    [
        TrainingConfig(batch_size=0),
        TrainingConfig(epochs=0),
        TrainingConfig(warmup=2.0),
        TrainingConfig(max_grad_norm=float("nan")),
    ],
)
async def test_trainings_out_of_range_are_refused(engine, config):
    await create_and_train(engine)
    assert isinstance(error_of(await engine.train_adapter("tickets", EXAMPLES, config)), InvalidConfig)


@pytest.mark.parametrize(
    ("examples", "words"),
    [
        ([], "no examples"),
        ([*EXAMPLES, TrainingExample("  ", "x")], "Example 4: The input is empty"),
        ([TrainingExample("x", "\t")], "Example 1: The output is empty"),
        ([TrainingExample("x", "y", weight=0.0)], "weight"),
        ([TrainingExample("x", "y", weight=float("inf"))], "weight"),
        ([TrainingExample("x", "\ud800")], "Unicode"),
    ],
)
async def test_bad_examples_are_named_and_nothing_is_kept(engine, examples, words):
    await create_and_train(engine)
    error = error_of(await engine.train_adapter("tickets", examples))
    assert isinstance(error, InvalidExample)
    assert words in str(error)
    assert (await engine.get_adapter("tickets")).unwrap().head == 1


async def test_an_example_longer_than_the_context_is_named(engine):
    await create_and_train(engine)
    long = TrainingExample("parcel " * 400, "x")
    error = error_of(await engine.train_adapter("tickets", [EXAMPLES[0], long]))
    assert isinstance(error, TooLong)
    assert "2" in str(error)
    assert engine._registry.blocking.journal.read(AdapterId("tickets")) == []


async def test_an_adapter_of_another_base_is_refused_in_plain_words(open_engine, tmp_path):
    async with open_engine() as engine:
        await create_and_train(engine)
    async with open_engine(tiny_model(tmp_path / "other", seed=1)) as engine:
        for result in (
            await engine.generate_with_adapter("play", "tickets", SHORT),
            await engine.train_adapter("tickets", EXAMPLES),
        ):
            error = error_of(result)
            assert isinstance(error, BaseMismatch)
            assert "its weights differ" in str(error)


def test_the_synchronous_face_does_the_same(open_engine):
    with SyncEngine(open_engine()) as engine:
        assert isinstance(engine.create_adapter("tickets", CONFIG), Ok)
        engine.train_adapter("tickets", EXAMPLES, TRAINING).unwrap()
        assert engine.generate_with_adapter("play some music", "tickets", SHORT).unwrap().text == "media"
        pieces = engine.stream_with_adapter("play some music", "tickets", SHORT)
        assert "".join(p.unwrap().text for p in pieces) == "media"
        assert engine.evaluate_adapter("tickets", EXAMPLES).unwrap().accuracy == 1.0
        assert [v.number for v in engine.get_versions("tickets").unwrap()] == [1, 2]


async def test_the_synchronous_face_works_beside_a_running_loop(open_engine):
    with SyncEngine(open_engine()) as engine:
        assert engine.base().unwrap().architecture == "llama"
