"""Adapters that learn at the same time share their passes, and each learns what it would alone."""

import asyncio
from dataclasses import replace

import pytest
import torch

from ouroboros.backend.base import TrainJob, TrainOutcome, UpdateJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.training import shared_gradients as pool
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import Cancelled, TrainingFailed
from ouroboros.domain.losses import DPO, KTO, APOZero
from ouroboros.lora.peft_files import unpack
from ouroboros.lora.weights import LowRank

ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice for one order", "billing"),
    Row("play some music in the kitchen, and set an alarm for seven", "media"),
    Row("set an alarm", "clock", weight=3.0),
    Row("please, where is it? it has not arrived", "shipping"),
)
PAIR = Row("where is it?", "shipping", DPO(), rejected="billing")


def kinds() -> list[tuple[AdapterConfig, TrainingConfig, tuple[Row, ...]]]:
    """Trainings that share nothing but the base."""
    return [
        (AdapterConfig(4, 1e-2, acts_on="answer"), TrainingConfig(2, 2), ROWS),
        (AdapterConfig(16, 3e-3, target_modules="all-linear"), TrainingConfig(4, 1), ROWS[:3]),
        (
            AdapterConfig(2, 5e-3, target_modules="down_proj", acts_on="answer"),
            TrainingConfig(1, 1),
            (PAIR, ROWS[0]),
        ),
        (
            AdapterConfig(8, 1e-3),
            TrainingConfig(3, 3, seed=7, warmup=0.0),
            (Row("set it", "clock", KTO()), Row("no", None, KTO(), rejected="media"), ROWS[1]),
        ),
    ]


async def jobs_of(backend: LocalBackend) -> list[TrainJob]:
    return [
        TrainJob(await backend.initialize(adapter, seed), adapter, training, rows)
        for seed, (adapter, training, rows) in enumerate(kinds())
    ]


@pytest.fixture
def passes(monkeypatch) -> list[int]:
    """How many sequences each forward and backward pass had."""
    seen: list[int] = []
    plain = pool.compute_output_logits
    monkeypatch.setattr(
        pool,
        "compute_output_logits",
        lambda f, s, a, **kw: (seen.append(len(s)), plain(f, s, a, **kw))[1],
    )
    return seen


async def test_each_learns_what_it_would_alone(backend, passes):
    jobs = await jobs_of(backend)
    alone = [await backend.train(job) for job in jobs]
    assert len(passes) == sum(o.report.steps for o in alone)
    passes.clear()
    together = await asyncio.gather(*(backend.train(job) for job in jobs))
    assert len(passes) == max(o.report.steps for o in alone)
    for ours, theirs in zip(together, alone, strict=True):
        assert ours.report.steps == theirs.report.steps
        for path, low in unpack(ours.files).weights.items():
            torch.testing.assert_close(low.a, unpack(theirs.files).weights[path].a, atol=1e-5, rtol=0)
            torch.testing.assert_close(low.b, unpack(theirs.files).weights[path].b, atol=1e-5, rtol=0)


async def test_updates_and_trainings_share_passes_too(backend, passes):
    (job, *_) = await jobs_of(backend)
    fix = UpdateJob(job.start, job.adapter, (Row("where is it?", "lost", APOZero()),))
    alone = await backend.update(fix)
    passes.clear()
    together, _ = await asyncio.gather(backend.update(fix), backend.train(job))
    assert max(passes) > 2
    for path, low in unpack(together.files).weights.items():
        torch.testing.assert_close(low.a, unpack(alone.files).weights[path].a, atol=1e-5, rtol=0)


async def test_many_more_adapters_than_a_pass_has_room_for_all_finish(backend, passes):
    config, training = AdapterConfig(2), TrainingConfig(5, 1)
    starts = [await backend.initialize(config, seed) for seed in range(40)]
    jobs = [TrainJob(start, config, training, ROWS) for start in starts]
    finished = await asyncio.gather(*(backend.train(job) for job in jobs))
    assert [o.report.steps for o in finished] == [1] * 40
    assert len(passes) < 40


async def test_an_adapter_that_is_not_a_number_fails_alone(backend):
    sick, *well = await jobs_of(backend)
    unpacked = unpack(sick.start)
    weights = {p: LowRank(w.a.fill_(float("nan")), w.b, w.scale) for p, w in unpacked.weights.items()}
    broken = replace(unpacked, weights=weights)
    sick = TrainJob(sick.start, sick.adapter, sick.training, sick.rows)
    backend._unpack = lambda files: broken if files is sick.start else unpack(files)
    alone = [await backend.train(job) for job in well]
    error, *together = await asyncio.gather(
        *(backend.train(job) for job in (sick, *well)), return_exceptions=True
    )
    assert isinstance(error, TrainingFailed)
    for ours, theirs in zip(together, alone, strict=True):
        assert isinstance(ours, TrainOutcome)
        assert ours.report.final_loss == pytest.approx(theirs.report.final_loss, abs=1e-5)


async def test_a_cancelled_one_leaves_the_others_at_work(backend):
    first, second, *_ = await jobs_of(backend)
    token = CancellationToken()
    stopped, finished = await asyncio.gather(
        backend.train(first, lambda _: token.cancel(), token),
        backend.train(second),
        return_exceptions=True,
    )
    assert isinstance(stopped, Cancelled)
    assert isinstance(finished, TrainOutcome)
    assert finished.report.steps == 1


async def test_a_short_job_does_not_wait_for_a_long_one(backend):
    long, short, *_ = await jobs_of(backend)
    long = TrainJob(long.start, long.adapter, TrainingConfig(5, 60), long.rows)
    steps: list[int] = []
    working = asyncio.create_task(backend.train(long, lambda p: steps.append(p.step)))
    while not steps:
        await asyncio.sleep(0)
    await backend.train(short)
    assert steps[-1] < 30
    assert (await working).report.steps == 60


async def test_passes_are_short_while_answers_are_written(backend, passes, monkeypatch):
    monkeypatch.setattr(pool, "SERVING_PASS_TOKENS", 1)
    start = await backend.initialize(AdapterConfig(4, 1e-2), 0)
    job = TrainJob(start, AdapterConfig(4, 1e-2), TrainingConfig(4, 2), ROWS[:4])
    whole = await backend.train(job)
    assert passes == [4, 4]
    monkeypatch.setattr(backend._gradient_batcher, "_is_serving", lambda: True)
    cut = await backend.train(job)
    assert passes[2:] == [1] * 8
    assert cut.report.final_loss == pytest.approx(whole.report.final_loss, abs=1e-5)
