"""Adapters that act on answers only: the base alone reads the prompt."""

import pytest
import torch

from ouroboros.backend.base import GenerateRequest, ScoreRequest, TrainJob, UpdateJob
from ouroboros.backend.local import LocalBackend
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.losses import DPO, KTO, Distillation
from ouroboros.lora.peft_files import unpack

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear", acts_on="answer")
ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice for one order", "billing"),
    Row("play some music", "media"),
)
SHORT = GenerationConfig(max_tokens=12)
FIX = Row("where is it?", "shipping", DPO(), rejected="no idea")


async def train_adapter(backend, epochs: int = 40):
    start = await backend.initialize(CONFIG, 0)
    job = TrainJob(start, CONFIG, TrainingConfig(batch_size=3, epochs=epochs), ROWS)
    return (await backend.train(job)).files


async def test_it_learns_its_rows(backend):
    digest = await backend.load(await train_adapter(backend))
    answers = await backend.generate([GenerateRequest(r.prompt, SHORT, digest) for r in ROWS])
    assert [a.text for a in answers] == [r.output for r in ROWS]


async def test_a_training_forgets_nothing_of_its_kind(backend):
    files = await train_adapter(backend, epochs=2)
    assert unpack(files, await backend.base()).config.acts_on == "answer"


@pytest.mark.parametrize(
    "row", [FIX, Row("no", None, KTO(), rejected="media"), Row("hello", "hi", Distillation("parent"))]
)
async def test_every_loss_knows_it(backend, row):
    start = await train_adapter(backend, epochs=2)
    job = TrainJob(start, CONFIG, TrainingConfig(2, 2), (row, *ROWS))
    weights = unpack((await backend.train(job)).files).weights
    assert any(not torch.equal(low.b, unpack(start).weights[p].b) for p, low in weights.items())


async def test_a_correction_is_said_afterwards_and_others_stay(backend):
    start = await train_adapter(backend)
    protect = tuple(TrainingExample(r.prompt, r.output or "") for r in ROWS[1:])
    outcome = await backend.update(UpdateJob(start, CONFIG, (FIX,), protect))
    digest = await backend.load(outcome.files)
    prompts = [FIX.prompt, *(r.prompt for r in ROWS[1:])]
    answers = await backend.generate([GenerateRequest(p, SHORT, digest) for p in prompts])
    assert [a.text for a in answers] == ["shipping", "billing", "media"]


async def test_it_is_refused_where_nothing_tells_where_an_answer_starts(tiny_folder):
    backend = LocalBackend.open(str(tiny_folder(chat=False)), dtype="float32", threads=1)
    with pytest.raises(InvalidConfig, match="have no common end"):
        await backend.initialize(CONFIG, 0)
    await backend.close()


async def test_its_own_drift_is_measured(backend):
    digest = await backend.load(await train_adapter(backend))
    (score,) = await backend.score([ScoreRequest("play some music", "media", digest, drift=True)])
    assert score.drift > 0.01
