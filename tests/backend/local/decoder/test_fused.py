"""What is fast because it is shared or kept is still shared and kept: passes are counted, not timed.

Elsewhere: trainings and updates that share passes (`test_pool`), rows of many adapters that decode
together (`test_running`), own passes and nothing kept below the first adapted layer (`test_decoder`).
"""

import asyncio
from dataclasses import replace

import pytest
import torch

from ouroboros.backend.base import GenerateRequest, ScoreRequest, TrainJob, UpdateJob
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.domain.config import AdapterConfig, TrainingConfig, UpdateConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.losses import DPO, KTO, Distillation
from ouroboros.lora.delta import BatchedLoraUpdate

CONFIG = AdapterConfig(2, 1e-3)
PROMPTS = ("where is my parcel?", "set an alarm", "play some music", "hello")


@pytest.fixture
def passes(monkeypatch) -> dict[str, int]:
    """How many passes over the base there were, for gradients and without."""
    seen = {"training": 0, "reading": 0}
    plain = Decoder.final_hidden

    def count_pass(self, *arguments, **named):
        seen["training" if torch.is_grad_enabled() else "reading"] += 1
        return plain(self, *arguments, **named)

    monkeypatch.setattr(Decoder, "final_hidden", count_pass)
    return seen


@pytest.mark.parametrize("loss", [DPO(), Distillation("parent"), Distillation("base")], ids=str)
async def test_what_the_start_says_is_asked_once_however_long_the_training(backend, passes, loss):
    rejected = "no" if loss.uses_pair else None
    rows = tuple(Row(p, "shipping", loss, rejected=rejected) for p in PROMPTS)
    start = await backend.initialize(CONFIG, 0)
    for epochs in (1, 5):
        passes.update(training=0, reading=0)
        await backend.train(TrainJob(start, CONFIG, TrainingConfig(4, epochs), rows))
        assert passes == {"training": epochs, "reading": 1}


async def test_a_correction_reads_once_and_then_takes_its_steps(backend, passes):
    row = Row(PROMPTS[0], "shipping", DPO(), rejected="no idea")
    protect = tuple(TrainingExample(p, "media") for p in PROMPTS[1:])
    start = await backend.initialize(CONFIG, 0)
    outcome = await backend.update(UpdateJob(start, CONFIG, (row,), protect))
    assert passes == {"training": outcome.report.steps + 1, "reading": 1}  # the shield


async def test_a_correction_that_is_learned_asks_for_no_more_gradients(backend, passes, monkeypatch):
    ways_back: list[torch.Tensor] = []
    plain = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda t: (ways_back.append(t), plain(t))[1])
    start = await backend.initialize(CONFIG, 0)
    row = Row(PROMPTS[0], "shipping", DPO(), rejected="no idea")
    easy = UpdateConfig(likely=0.01)  # a base of random weights is sure of nothing
    outcome = await backend.update(UpdateJob(start, CONFIG, (row,), update=easy))
    assert outcome.report.advice == ""
    assert len(ways_back) == outcome.report.steps == passes["training"] - 1


async def test_what_the_base_says_where_drift_is_asked_is_read_once(backend, passes):
    digest = await backend.load(await backend.initialize(CONFIG, 0))
    requests = [ScoreRequest(p, "shipping", digest, drift=True) for p in PROMPTS]
    first = await backend.score(requests)
    assert passes["reading"] == 2  # the base's, the adapter's
    assert await backend.score(requests) == first
    assert passes["reading"] == 3


async def test_trainings_with_references_share_their_passes(backend, passes):
    wanted = (Row(p, "shipping", KTO()) for p in PROMPTS[:2])
    rows = (*wanted, Row("no", None, KTO(), rejected="a"))
    jobs = [
        TrainJob(await backend.initialize(CONFIG, seed), CONFIG, TrainingConfig(1, 2), rows)
        for seed in range(4)
    ]
    await asyncio.gather(*(backend.train(job) for job in jobs))
    assert passes["training"] < 2 * 6


async def test_scores_of_many_adapters_are_one_pass(backend, passes):
    digests = [await backend.load(await backend.initialize(CONFIG, seed)) for seed in range(3)]
    requests = [ScoreRequest(p, "x", d) for p, d in zip(PROMPTS, [*digests, None], strict=True)]
    await backend.score(requests)
    assert passes == {"training": 0, "reading": 1}


async def test_more_adapters_than_places_in_the_batch_are_all_answered(backend):
    """Of any rank: a larger one that joins later makes the slots wider for all."""
    ranks = [1 + i % 5 * 3 for i in range(12)]
    digests = [
        await backend.load(await backend.initialize(replace(CONFIG, rank=rank), seed))
        for seed, rank in enumerate(ranks)
    ]
    requests = [GenerateRequest(f"parcel {d[:4]}", GenerationConfig(max_tokens=6), d) for d in digests]
    alone = [(await backend.generate([one]))[0].tokens for one in requests]
    backend._batch._max_rows = 3
    most, forward = [0], backend._batch._run_decode_step

    def count_rows():
        most[0] = max(most[0], len(backend._batch._active))
        return forward()

    backend._batch._run_decode_step = count_rows
    assert [g.tokens for g in await backend.generate(requests)] == alone
    assert most[0] == 3


async def test_adapters_that_learn_together_share_their_own_products_too(backend, monkeypatch):
    together: list[int] = []
    plain = BatchedLoraUpdate.apply

    def count_calls(self, x, y):
        together.append(len(self.factors))
        return plain(self, x, y)

    monkeypatch.setattr(BatchedLoraUpdate, "apply", count_calls)
    starts = [await backend.initialize(CONFIG, seed) for seed in range(4)]
    rows = [(Row(f"where is parcel {i}?", "it is"),) for i in range(4)]
    jobs = [TrainJob(s, CONFIG, TrainingConfig(1), r) for s, r in zip(starts, rows, strict=True)]
    await asyncio.gather(*(backend.train(job) for job in jobs))
    assert max(together) == 4
