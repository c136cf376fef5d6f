"""Scores against what they stand for: generated answers, and the two models' own distributions."""

import asyncio
import math

import pytest
import torch

from ouroboros.backend.base import GenerateRequest, ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.serving import score
from ouroboros.backend.local.serving.score import MAX_CACHED_SEQUENCES, measure_strength
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import InvalidAdapter
from ouroboros.domain.generation import GenerationConfig
from ouroboros.lora.peft_files import unpack

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
ROWS = (Row("where is my parcel?", "shipping"), Row("I was charged twice", "billing"))
OTHERS = ("play some music", "what time is it in the kitchen?", "hello", "0123")


async def train_adapter(backend, epochs=40):
    start = await backend.initialize(CONFIG, seed=0)
    training = TrainingConfig(batch_size=2, epochs=epochs)
    return start, (await backend.train(TrainJob(start, CONFIG, training, ROWS))).files


@pytest.mark.parametrize("architecture", ["llama", "bloom"])
async def test_an_output_is_said_exactly_if_greedy_decoding_answers_with_it(tiny_folder, architecture):
    backend = LocalBackend.open(str(tiny_folder(architecture)), dtype="float32", threads=1)
    _, files = await train_adapter(backend)
    prompts = [*(r.prompt for r in ROWS), *OTHERS]
    requests = [GenerateRequest(p, GenerationConfig(max_tokens=40), files.digest) for p in prompts]
    answers = await backend.generate(requests)
    greedy_pairs = {(a.text, p) for a, p in zip(answers, prompts, strict=True) if a.finish == "stop"}
    texts = sorted({text for text, _ in greedy_pairs if text.strip()})
    pairs = [(p, t) for p in prompts for t in texts]
    scores = await backend.score([ScoreRequest(p, t, files.digest) for p, t in pairs])
    assert [s.is_greedy for s in scores] == [(t, p) in greedy_pairs for p, t in pairs]
    assert sum(s.is_greedy for s in scores) >= 2
    await backend.close()


async def test_drift_is_the_divergence_of_the_two_distributions(backend):
    start, files = await train_adapter(backend, epochs=3)
    fresh = await backend.load(start)
    requests = [
        ScoreRequest("hello", "shipping", files.digest, drift=True),
        ScoreRequest("hello", "shipping", fresh, drift=True),
        ScoreRequest("hello", "shipping", files.digest),
    ]
    moved, same, unasked = await backend.score(requests)
    assert moved.drift > 1e-3
    assert same.drift == pytest.approx(0.0, abs=1e-6)
    assert (unasked.drift, unasked.logprobs) == (0.0, pytest.approx(moved.logprobs, abs=1e-4))


async def test_more_drifts_at_once_than_are_kept_are_each_measured(backend):
    _, files = await train_adapter(backend, epochs=3)
    requests = [
        ScoreRequest(f"question {i}", "shipping", files.digest, drift=True)
        for i in range(2 * MAX_CACHED_SEQUENCES)
    ]
    halves = await asyncio.gather(
        backend.score(requests[:MAX_CACHED_SEQUENCES]), backend.score(requests[MAX_CACHED_SEQUENCES:])
    )
    repeated = await backend.score(requests)
    assert [s.drift for half in halves for s in half] == pytest.approx(
        [s.drift for s in repeated], abs=1e-4
    )
    assert len(backend._runtime.base_logits_cache) <= MAX_CACHED_SEQUENCES


async def test_the_cache_of_base_logits_is_bounded_in_bytes(backend, monkeypatch):
    _, files = await train_adapter(backend, epochs=3)
    requests = [ScoreRequest(f"question {i}", "shipping", files.digest, drift=True) for i in range(6)]
    unbounded = await backend.score(requests)
    cache = backend._runtime.base_logits_cache
    limit = sum(table.nbytes for table in list(cache.values())[:2])
    monkeypatch.setattr(score, "MAX_CACHED_BYTES", limit)
    for _ in range(2):
        cache.clear()
        scores = await backend.score(requests)
        assert [s.drift for s in scores] == pytest.approx([s.drift for s in unbounded], abs=1e-6)
        assert 0 < sum(table.nbytes for table in cache.values()) <= limit


async def test_drift_bounds_what_any_output_lost(backend):
    """KL(p || q) is the mean of log p - log q under p: never below 0, whatever the adapter."""
    for epochs in (1, 5, 20):
        _, files = await train_adapter(backend, epochs)
        requests = [ScoreRequest(p, "billing", files.digest, drift=True) for p in OTHERS]
        assert all(s.drift >= 0 and math.isfinite(s.drift) for s in await backend.score(requests))


async def test_strength_is_the_updates_norm_over_the_layers(backend, tiny_folder):
    start, files = await train_adapter(backend, epochs=3)
    runtime = load_base(str(tiny_folder()), dtype="float32")
    weights = unpack(files, runtime.base).weights
    update = sum(float(low.delta().square().sum()) for low in weights.values())
    layers = [runtime.model.get_submodule(path).weight for path in weights]
    base = sum(float(torch.as_tensor(w).square().sum()) for w in layers)
    assert await backend.measure_strength(files) == pytest.approx(math.sqrt(update / base), rel=1e-4)
    assert measure_strength(runtime, weights) == pytest.approx(math.sqrt(update / base), rel=1e-4)
    assert await backend.measure_strength(start) == 0.0


async def test_a_blend_lies_between_its_ends(backend):
    start, end = await train_adapter(backend)
    assert (await backend.interpolate(start, end, 1.0)).digest == end.digest
    assert (await backend.interpolate(start, end, 0.0)).weights == start.weights
    row = ROWS[0]
    points = [await backend.load(await backend.interpolate(start, end, s)) for s in (0.0, 0.5, 1.0)]
    scores = await backend.score([ScoreRequest(row.prompt, str(row.output), p) for p in points])
    assert scores[0].total < scores[1].total < scores[2].total


async def test_there_is_no_way_between_adapters_of_different_shapes(backend):
    start = await backend.initialize(CONFIG, seed=0)
    other = await backend.initialize(AdapterConfig(rank=2, target_modules="all-linear"), seed=0)
    with pytest.raises(InvalidAdapter, match="different shapes"):
        await backend.interpolate(start, other, 0.5)
