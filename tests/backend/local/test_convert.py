"""Merging and exporting through the backend."""

import json
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_tensors

from ouroboros.backend.base import MergedAdapter, MergeJob, ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.convert import merge
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.base_model import BaseModel, LinearShape
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import Cancelled, InvalidConfig, TooLarge
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.weights import MAX_BYTES, WEIGHTS_FILE, AdapterFiles, ExportForm
from ouroboros.lora.peft_files import pack
from ouroboros.lora.targets import select_layers
from ouroboros.lora.weights import LowRank

AVERAGE = MergeRecipe(MergeStrategy.AVERAGE)


@pytest.fixture
async def backend(tiny_folder: Callable[..., Path]) -> AsyncIterator[LocalBackend]:
    backend = LocalBackend(load_base(str(tiny_folder()), "float32"))
    yield backend
    await backend.close()


async def adapter(backend: LocalBackend, seed: int, **changes: object) -> AdapterFiles:
    config = replace(AdapterConfig(rank=3), **changes)  # type: ignore[arg-type]
    base = await backend.base()
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) * 0.1

    weights = {
        s.path: LowRank(draw(config.rank, s.inputs), draw(s.outputs, config.rank), config.scale)
        for s in select_layers(base, config)
    }
    return pack(weights, config, base)


def run(steps: Generator[None, None, MergedAdapter]) -> MergedAdapter:
    """Work through the steps here and now."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


async def score(backend: LocalBackend, files: AdapterFiles) -> torch.Tensor:
    (score,) = await backend.score([ScoreRequest("hello", "there you are", await backend.load(files))])
    return torch.tensor(score.logprobs)


async def test_parents_of_different_shape_merge_into_a_sound_adapter(backend: LocalBackend):
    one = await adapter(backend, 0, target_modules="q_proj,v_proj")
    other = await adapter(backend, 1, rank=5, target_modules="v_proj,up_proj", use_rslora=True)
    merged = await backend.merge(MergeJob((one, other), AVERAGE))
    assert merged.config.rank == merged.lossless_rank == 8
    assert merged.relative_error < 1e-5
    assert (await backend.validate(merged.files)).target_names == ("q_proj", "up_proj", "v_proj")


async def test_an_adapter_merged_with_itself_answers_as_it_does(backend: LocalBackend):
    one = await adapter(backend, 0)
    merged = await backend.merge(MergeJob((one, one), AVERAGE))
    assert merged.config.rank == 3
    torch.testing.assert_close(await score(backend, merged.files), await score(backend, one))


async def test_a_rank_that_is_asked_for_is_kept(backend: LocalBackend):
    parents = (await adapter(backend, 0), await adapter(backend, 1))
    merged = await backend.merge(MergeJob(parents, AVERAGE, rank=2))
    assert merged.config.rank == 2
    assert merged.relative_error > 0.1
    assert merged.lossless_rank == 6


def wide_base(base: BaseModel) -> BaseModel:
    """A base whose layers are so wide that adapters of some rank exceed the size limit."""
    shapes = [LinearShape(f"model.layers.{i}.q_proj", 16384, 16384) for i in range(4)]
    return replace(base, linears=tuple(shapes))


async def test_the_size_limit_cuts_the_rank_unless_one_is_asked_for(backend: LocalBackend):
    base = wide_base(await backend.base())
    config = AdapterConfig(rank=30, target_modules="q_proj")
    parents = []
    for seed in range(2):
        generator = torch.Generator().manual_seed(seed)
        weights = {
            s.path: LowRank(
                torch.randn(30, s.inputs, generator=generator),
                torch.randn(s.outputs, 30, generator=generator),
                1.0,
            )
            for s in base.linears
        }
        parents.append(pack(weights, config, base))
    merged = run(merge(base, MergeJob(tuple(parents), AVERAGE)))
    assert merged.lossless_rank == 60
    assert merged.config.rank == 39
    assert 0 < merged.relative_error < 1
    assert len(merged.files.weights) <= MAX_BYTES
    with pytest.raises(TooLarge):
        run(merge(base, MergeJob(tuple(parents), AVERAGE, rank=60)))


async def test_merging_stops_when_asked(backend: LocalBackend):
    cancel = CancellationToken()
    cancel.cancel()
    one = await adapter(backend, 0)
    with pytest.raises(Cancelled):
        await backend.merge(MergeJob((one, one), AVERAGE), cancel)


async def test_one_parent_is_refused(backend: LocalBackend):
    with pytest.raises(InvalidConfig):
        await backend.merge(MergeJob((await adapter(backend, 0),), AVERAGE))


async def test_export_of_a_float_adapter_is_the_adapter(backend: LocalBackend):
    files = await adapter(backend, 0)
    exported = await backend.export(files, ExportForm.PEFT)
    assert exported == {"adapter_config.json": files.config, "adapter_model.safetensors": files.weights}


async def test_integer_weights_are_exported_as_ordinary_ones(backend: LocalBackend):
    files = await adapter(backend, 0, precision="int8")
    exported = await backend.export(files, ExportForm.PEFT)
    tensors = load_tensors(exported[WEIGHTS_FILE])
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    assert b'"LORA"' in exported["adapter_config.json"]
    plain = AdapterFiles(exported["adapter_config.json"], exported[WEIGHTS_FILE])
    torch.testing.assert_close(
        await score(backend, plain), await score(backend, files), atol=1e-2, rtol=1e-2
    )


async def test_export_as_gguf_is_one_file(backend: LocalBackend):
    exported = await backend.export(await adapter(backend, 0), ExportForm.GGUF)
    assert list(exported) == ["adapter.gguf"]
    assert exported["adapter.gguf"].startswith(b"GGUF")


async def test_merged_files_are_right_for_readers_that_know_no_patterns(backend: LocalBackend):
    """Some scale every layer by lora_alpha / r: that is 1, whatever the layers' own ranks."""
    one = await adapter(backend, 0, target_modules="q_proj,v_proj")
    other = await adapter(backend, 1, target_modules="v_proj,up_proj")
    document = json.loads((await backend.merge(MergeJob((one, other), AVERAGE))).files.config)
    assert document["rank_pattern"]
    assert document["lora_alpha"] == document["r"]
    assert all(document["alpha_pattern"][p] == r for p, r in document["rank_pattern"].items())


@pytest.mark.parametrize("precision", ["int8", "int4"])
async def test_integer_adapters_learn_and_are_served_as_they_are_stored(
    backend: LocalBackend, precision: str
):
    config = AdapterConfig(learning_rate=1e-2, target_modules="all-linear", precision=precision)
    prompt, output = "where is my parcel?", "it has not arrived"
    start = await backend.initialize(config, 0)
    trained = await backend.train(
        TrainJob(start, config, TrainingConfig(epochs=30), (Row(prompt, output),))
    )
    requests = [
        ScoreRequest(prompt, output, await backend.load(files)) for files in (start, trained.files)
    ]
    before, after = await backend.score(requests)
    assert after.mean > before.mean + 1.0
    assert f"OUROBOROS_{precision.upper()}".encode() in trained.files.config


async def test_answer_only_adapters_merge_among_themselves(backend):
    files = tuple([await adapter(backend, seed, acts_on="answer") for seed in (1, 2)])
    merged = await backend.merge(MergeJob(files, AVERAGE))
    assert merged.config.acts_on == "answer"
    assert (await backend.validate(merged.files)).acts_on == "answer"


async def test_answer_only_and_ordinary_adapters_are_not_merged(backend):
    files = (await adapter(backend, 1, acts_on="answer"), await adapter(backend, 2))
    with pytest.raises(InvalidConfig, match="acts on answers only cannot be merged"):
        await backend.merge(MergeJob(files, AVERAGE))


async def test_gguf_tells_where_an_answer_only_adapter_starts(backend):
    files = await adapter(backend, 1, acts_on="answer")
    (raw,) = (await backend.export(files, ExportForm.GGUF)).values()
    assert b"adapter.alora.invocation_tokens" in raw
