"""Every kind of work on a device that is not the processor, and the same work on the processor.

Where CUDA is at hand it is one of the devices; a pretended one is always there.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from ouroboros.backend.base import Checkpoints, GenerateRequest, ScoreRequest, TrainJob, UpdateJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.model import load as loading
from ouroboros.backend.local.runtime.worker import Worker
from ouroboros.domain.config import ANSWER, AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row, TrainingExample
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.losses import DPO, KTO, Distillation
from tests.backend.local import fake_device

ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice", "billing"),
    Row("play some music", "media"),
)
MIXED = (
    *ROWS,
    Row("hello", "front desk", DPO(), rejected="no idea"),
    Row("what is it?", "shipping", KTO()),
    Row("set an alarm", "media", Distillation("base")),
)
CONFIG = AdapterConfig(4, 1e-2, target_modules="all-linear")
ANSWERS = replace(CONFIG, acts_on=ANSWER)
TRAINING = TrainingConfig(3, 4)
DRAWN = GenerationConfig(max_tokens=8, temperature=0.7, top_p=0.9, seed=5)
"""A random base has answers all but as likely as others; where a token is drawn they seldom part."""

Opened = Callable[[Path], LocalBackend]


def open_fake_backend(folder: Path) -> LocalBackend:
    with pytest.MonkeyPatch.context() as patch, fake_device.activate():
        patch.setattr(loading, "_resolve_device", lambda _: fake_device.DEVICE)
        frozen = loading.load_base(str(folder), "float32")
    backend = LocalBackend(frozen, threads=1)
    backend._worker = Worker("fake-device", fake_device.activate_on_each_thread())
    return backend


def open_backend(device: str, folder: Path) -> LocalBackend:
    return LocalBackend.open(str(folder), dtype="float32", device=device, threads=1)


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The optimizer takes the pretended device for one that it knows."""
    optimizer: Any = import_module("torch.optim.optimizer")
    known = [*optimizer._get_fused_kernels_supported_devices(), fake_device.DEVICE.type]
    monkeypatch.setattr(optimizer, "_get_fused_kernels_supported_devices", lambda: known)


@pytest.fixture(
    params=[
        pytest.param(open_fake_backend, id="pretended"),
        pytest.param(
            partial(open_backend, "cuda"),
            id="cuda",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="No CUDA device is here."),
        ),
    ]
)
def other(request: pytest.FixtureRequest, fused: None) -> Opened:
    """Opens a folder on another device."""
    return request.param


async def run_all_work(backend: LocalBackend) -> dict[str, Any]:
    """All kinds of work, one after the other, and what came of each."""
    results: dict[str, Any] = {}
    start = await backend.initialize(CONFIG, 0)
    states: list[bytes | None] = []
    job = TrainJob(start, CONFIG, TRAINING, ROWS, checkpoints=Checkpoints(seconds=0.0))
    first = await backend.train(job, lambda progress: states.append(progress.checkpoint))
    resumed = await backend.train(replace(job, checkpoints=Checkpoints(states[1] or b"")))
    assert resumed.files.digest == first.files.digest
    results["training"] = first.report.final_loss
    configs = (CONFIG, ANSWERS, replace(CONFIG, rank=2))
    jobs = [TrainJob(await backend.initialize(c, 1), c, TRAINING, MIXED, ROWS[:1]) for c in configs]
    others = await asyncio.gather(*map(backend.train, jobs))
    results["trainings at once"] = [o.report.final_loss for o in others]
    protect = tuple(TrainingExample(r.prompt, r.output) for r in ROWS if r.output)
    update = UpdateJob(first.files, CONFIG, (Row("who are you?", "media"),), protect)
    judged = await backend.update(replace(update, update=replace(update.update, max_steps=2)))
    results["update"] = judged.report.first_loss
    adapters = [None, *[await backend.load(o.files) for o in (first, *others, judged)]]
    requests = [GenerateRequest(r.prompt, DRAWN, a) for r in ROWS for a in adapters]
    results["answers"] = [(a.tokens, a.logprobs) for a in await backend.generate(requests)]
    scores = [ScoreRequest(r.prompt, r.output or "", a, drift=True) for r in ROWS for a in adapters]
    results["scores"] = [(s.logprobs, s.is_greedy, s.drift) for s in await backend.score(scores)]
    results["strength"] = await backend.measure_strength(judged.files)
    results["vectors"] = await backend.embed(["where is it?", "play"])
    await backend.close()
    return results


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2", "gpt_bigcode"])
async def test_all_work_on_another_device_is_the_processor_s(architecture, other, tiny_folder):
    """Packed sequences and padded ones, own passes and the model's."""
    folder = tiny_folder(architecture)
    theirs, ours = await run_all_work(other(folder)), await run_all_work(open_backend("cpu", folder))
    for name, expected in ours.items():
        assert _close(theirs[name], expected), name


def _close(actual: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return actual == pytest.approx(expected, abs=1e-3, rel=1e-3)
    if isinstance(expected, list | tuple):
        return len(actual) == len(expected) and all(map(_close, actual, expected))
    return actual == expected


async def test_own_passes_are_taken_on_every_device(other, tiny_folder):
    backend = other(tiny_folder())
    assert isinstance(backend._runtime.decoder, Decoder)
    await backend.close()


@pytest.mark.usefixtures("fused")
async def test_a_device_is_waited_for_as_often_whatever_there_is_to_do(tiny_folder):
    """A training step: for what it found, and its gradient's length. A token: for each row's likeliest,
    and how likely those are. Prompts that are run together: for whether all are finite."""
    for layers, rows in ((2, ROWS), (4, (*ROWS, *ROWS))):
        backend = open_fake_backend(tiny_folder(num_hidden_layers=layers))
        start = await backend.initialize(CONFIG, 0)
        digest = await backend.load(start)
        for steps in (2, 7):
            fake_device.take_waits()
            await backend.train(TrainJob(start, CONFIG, TrainingConfig(len(rows), steps), rows))
            assert len(fake_device.take_waits()) == 2 * steps + 1  # and the weights, to be packed
            greedy = GenerationConfig(max_tokens=steps)
            fake_device.take_waits()
            requests = [GenerateRequest(r.prompt, greedy, digest) for r in rows]
            turns = max(len(a.tokens) for a in await backend.generate(requests))
            assert len(fake_device.take_waits()) == 2 * turns + 1
        await backend.close()


@pytest.mark.usefixtures("fused")
async def test_adapters_of_one_layout_share_their_calls_however_many_and_long_they_are(tiny_folder):
    """A device is slowed by calls. One adapter more has its own loss and optimizer, and no layer's."""
    row = Row("where is it? " * 7, "shipping")
    further = []
    for layers in (2, 4):
        backend = open_fake_backend(tiny_folder(hidden_size=192, num_hidden_layers=layers))
        calls = []
        for count in (2, 3, 8):
            starts = [await backend.initialize(CONFIG, seed) for seed in range(count)]
            jobs = [TrainJob(s, CONFIG, TrainingConfig(1, 1, anchors=0.0), (row,)) for s in starts]
            fake_device.take_calls()
            await asyncio.gather(*map(backend.train, jobs))
            calls.append(len(fake_device.take_calls()))
        await backend.close()
        further += [calls[1] - calls[0], (calls[2] - calls[0]) / 6]
    assert further[0] > 0
    assert further == further[:1] * 4


def test_tensors_of_two_devices_do_not_meet():
    """What all the others here rest on."""
    with fake_device.activate():
        one = torch.ones(2, device=fake_device.DEVICE)
        assert (one + 1).tolist() == [2.0, 2.0]
        with pytest.raises(RuntimeError, match="two devices"):
            torch.add(one, torch.ones(2))
        assert (one.cpu() + torch.ones(2)).tolist() == [2.0, 2.0]
