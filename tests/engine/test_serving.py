"""Serving beside learning: a promoted version answers from the next request on."""

import asyncio

import pytest

from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Continuation, TrainingExample
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.generation import GenerationConfig
from ouroboros.engine import AdapterLearningEngine
from ouroboros.registry.registry import Registry
from ouroboros.stores.open import open_blobs, open_metadata

LONG = GenerationConfig(max_tokens=100)
CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")


@pytest.fixture
async def engine(tiny):
    backend = LocalBackend.open(str(tiny), dtype="float32", threads=1)
    registry = Registry(open_metadata("memory:"), open_blobs("memory:"))
    async with AdapterLearningEngine(backend, registry) as engine:
        yield engine


async def test_a_promoted_version_answers_from_the_next_request_on(engine):
    (await engine.create_adapter("tickets", CONFIG)).unwrap()
    alone = (await engine.generate_with_adapter("play", "tickets", LONG)).unwrap()
    stream = engine.stream_with_adapter("play", "tickets", LONG)
    (await anext(stream)).unwrap()
    rows = [TrainingExample("where is my parcel?", "shipping")]
    version = (await engine.train_adapter("tickets", rows, TrainingConfig(epochs=8))).unwrap()
    after = (await engine.generate_with_adapter("where is my parcel?", "tickets", LONG)).unwrap()
    assert after.version == str(version.ref) == "tickets@2"
    pieces = [piece.unwrap() async for piece in stream]
    assert pieces[-1].generation is not None
    assert pieces[-1].generation.version == "tickets@1"
    assert pieces[-1].generation.tokens == alone.tokens


async def test_calls_that_overlap_are_answered_together_each_by_its_adapter(engine):
    names = ["one", "two", None]
    for name in names[:2]:
        (await engine.create_adapter(name, CONFIG)).unwrap()
    rows = [TrainingExample("play", "shipping")]
    (await engine.train_adapter("two", rows, TrainingConfig(epochs=20))).unwrap()
    config = GenerationConfig(max_tokens=12)
    alone = [(await engine.generate_with_adapter("play", n, config)).unwrap() for n in names]
    results = await asyncio.gather(*(engine.generate_with_adapter("play", n, config) for n in names))
    together = [result.unwrap() for result in results]
    assert [g.tokens for g in together] == [g.tokens for g in alone]
    assert [g.version for g in together] == ["one@1", "two@2", None]
    assert together[0].tokens == together[2].tokens != together[1].tokens


async def test_a_continuation_is_not_put_into_the_chat_template(engine):
    config = GenerationConfig(max_tokens=5)
    text = (await engine.generate_with_adapter(Continuation("where is"), None, config)).unwrap()
    turn = (await engine.generate_with_adapter("where is", None, config)).unwrap()
    assert text.prompt_tokens < turn.prompt_tokens
    ids = (await engine.generate_with_adapter(Continuation((5, 6)), None, config)).unwrap()
    assert ids.prompt_tokens == 2


@pytest.mark.parametrize("prompt", ["", "\ud800", (), (-1,), (10**6,), (True,)])
async def test_a_continuation_that_cannot_be_read_is_refused(engine, prompt):
    error = (await engine.generate_with_adapter(Continuation(prompt))).error
    assert isinstance(error, InvalidExample)


async def test_no_adapter_is_chosen_by_token_ids_alone(engine):
    error = (await engine.generate_with_adapter(Continuation((5, 6)), "auto")).error
    assert error.code == "invalid_input"
    assert (await engine.generate_with_adapter(Continuation("where is"), "auto")).ok
