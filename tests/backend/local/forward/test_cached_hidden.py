"""What the base makes of rows below the first adapted layer is computed once; nothing changes."""

import asyncio
from dataclasses import replace

import pytest
import torch

from ouroboros.backend.base import Checkpoints, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.cache.prefix_cache import DEFAULT_MAX_BYTES, PrefixCache
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.training import train
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.losses import DPO
from ouroboros.lora.peft_files import unpack

TOP = tuple(f"layers.1.{n}" for n in ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj"))
CONFIG = AdapterConfig(learning_rate=1e-2, target_modules=TOP)
KINDS = [CONFIG, replace(CONFIG, acts_on="answer")]
ROWS = (
    Row("please play some music in the kitchen and set an alarm for seven", "shipping"),
    Row("I was charged twice for one order", "billing"),
    Row("play", "media", DPO(), rejected="clock"),
    Row("hello", "front desk"),
)


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """The tokens of each pass that stops below the first adapted layer."""
    seen: list[int] = []
    plain = Decoder.hidden_at_layer

    def below(self, layer, ids, *rest):
        seen.append(len(ids))
        return plain(self, layer, ids, *rest)

    monkeypatch.setattr(Decoder, "hidden_at_layer", below)
    return seen


def open_backend(
    tiny_folder, name: str = "llama", prompt_bytes: int = DEFAULT_MAX_BYTES
) -> LocalBackend:
    return LocalBackend(
        load_base(str(tiny_folder(name)), "float32", prefix_cache_bytes=prompt_bytes), threads=1
    )


async def job(backend, config=CONFIG, epochs=3, **changes) -> TrainJob:
    start = await backend.initialize(config, 0)
    return replace(TrainJob(start, config, TrainingConfig(3, epochs), ROWS), **changes)


def tokens(backend) -> int:
    """Of all rows, each output with its prompt."""
    codec = backend._runtime.tokenizer
    return sum(len(codec.encode_pair(r.prompt, o)) for r in ROWS for o in r.outputs)


def assert_close(ours, theirs):
    weights = unpack(theirs.files).weights
    for path, low in unpack(ours.files).weights.items():
        torch.testing.assert_close(low.a, weights[path].a, atol=1e-5, rtol=0)
        torch.testing.assert_close(low.b, weights[path].b, atol=1e-5, rtol=0)


@pytest.mark.parametrize("config", KINDS, ids=lambda c: c.acts_on)
@pytest.mark.parametrize("name", ["llama", "qwen3"])
async def test_a_training_is_the_same_as_from_the_first_layer_on(tiny_folder, runs, name, config):
    backend, plain = open_backend(tiny_folder, name), open_backend(tiny_folder, name, prompt_bytes=0)
    ours = await backend.train(await job(backend, config))
    assert runs
    runs.clear()
    theirs = await plain.train(await job(plain, config))
    assert not runs
    assert_close(ours, theirs)
    await backend.close()
    await plain.close()


async def test_each_row_is_read_once_for_all_epochs_and_adapters(backend, runs):
    await backend.train(await job(backend))
    assert sum(runs) == tokens(backend)
    await backend.train(await job(backend, replace(CONFIG, rank=2)))
    assert sum(runs) == tokens(backend)


async def test_what_is_kept_stays_within_its_bytes(tiny_folder, runs):
    probe = open_backend(tiny_folder)
    hidden_bytes = tokens(probe) * probe._runtime.base.width * 4
    await probe.close()
    backend = open_backend(tiny_folder, prompt_bytes=2 * hidden_bytes)
    await backend.train(await job(backend))
    assert backend._runtime.prefix_cache.nbytes == hidden_bytes
    await backend.close()
    small = open_backend(tiny_folder, prompt_bytes=2 * hidden_bytes - 8)
    runs.clear()
    await small.train(await job(small))
    assert not runs and small._runtime.prefix_cache.nbytes == 0
    await small.close()


async def test_what_others_have_pushed_out_is_read_again_to_the_same_bits(backend, runs, monkeypatch):
    whole = await backend.train(await job(backend))
    planned = train.plan_token_budget
    monkeypatch.setattr(train, "plan_token_budget", lambda *a: replace(planned(*a), first_layer=1))
    object.__setattr__(backend._runtime, "prefix_cache", PrefixCache(0))
    repeated = await backend.train(await job(backend))
    assert sum(runs) == tokens(backend) * 4
    assert repeated.files.digest == whole.files.digest


async def test_a_training_gone_on_with_ends_with_the_same_bits(tiny_folder):
    backend, states = open_backend(tiny_folder), list[bytes]()
    whole = await backend.train(
        await job(backend, checkpoints=Checkpoints(seconds=0.0)),
        lambda p: states.append(p.checkpoint or b""),
    )
    await backend.close()
    other = open_backend(tiny_folder)
    rest = await other.train(await job(other, checkpoints=Checkpoints(resume=states[2])))
    assert rest.files.digest == whole.files.digest
    await other.close()


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 1},  # no row comes twice
        {"config": replace(CONFIG, target_modules="all-linear")},
    ],
    ids=["one epoch", "all layers"],
)
async def test_nothing_is_kept_where_nothing_is_saved(backend, runs, changes):
    await backend.train(await job(backend, **changes))
    assert not runs and backend._runtime.prefix_cache.nbytes == 0


async def test_in_company_it_learns_what_it_would_alone(backend):
    whole = replace(CONFIG, target_modules="all-linear", rank=2)
    jobs = [await job(backend), await job(backend, whole), await job(backend, KINDS[1])]
    alone = [await backend.train(j) for j in jobs]
    together = await asyncio.gather(*(backend.train(j) for j in jobs))
    for ours, theirs in zip(together, alone, strict=True):
        assert_close(ours, theirs)
