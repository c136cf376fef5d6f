"""The local backend as the engine sees it."""

import asyncio
import json
import threading
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load as load_tensors

from ouroboros.backend.base import GenerateRequest, ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.model.load import load_base as load_model
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.domain.errors import (
    Cancelled,
    InvalidAdapter,
    NotFound,
    TooLarge,
    UnknownTarget,
)
from ouroboros.domain.generation import GenerationConfig
from ouroboros.domain.weights import AdapterFiles

ROWS = (
    Row("where is my parcel?", "shipping"),
    Row("I was charged twice", "billing"),
    Row("play some music", "media"),
)
OUTPUTS = ("shipping", "billing", "media")
CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear")
SHORT = GenerationConfig(max_tokens=12)


async def train_adapter(backend, epochs=40, config=CONFIG):
    start = await backend.initialize(config, seed=0)
    return await backend.train(
        TrainJob(start, config, TrainingConfig(batch_size=3, epochs=epochs), ROWS)
    )


async def test_a_fresh_adapter_answers_as_the_base(backend):
    digest = await backend.load(await backend.initialize(CONFIG, seed=0))
    base, fresh = await backend.generate(
        [GenerateRequest(ROWS[0].prompt, SHORT, a) for a in (None, digest)]
    )
    assert base.tokens == fresh.tokens


async def test_training_makes_the_rows_the_answers(backend):
    outcome = await train_adapter(backend)
    requests = [GenerateRequest(r.prompt, SHORT, outcome.files.digest) for r in ROWS]
    answers = await backend.generate(requests)
    assert [a.text for a in answers] == [r.output for r in ROWS]
    assert all(a.finish == "stop" for a in answers)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
async def test_what_is_stored_answers_as_what_was_trained(backend, tiny_folder, precision):
    config = replace(CONFIG, precision=precision, rank=3, alpha=5.0)
    outcome = await train_adapter(backend, 5, config)
    scores = [
        ScoreRequest(r.prompt, o, outcome.files.digest) for r, o in zip(ROWS, OUTPUTS, strict=True)
    ]
    before = await backend.score(scores)
    other = LocalBackend.open(str(tiny_folder()), dtype="float32", threads=1)
    await other.load(outcome.files)
    assert await other.score(scores) == before
    more = TrainJob(outcome.files, config, TrainingConfig(3, 2), ROWS)
    unread = LocalBackend.open(str(tiny_folder()), dtype="float32", threads=1)
    digests = {(await b.train(more)).files.digest for b in (backend, other, unread)}
    assert len(digests) == 1
    assert await backend.score(scores) == before
    await unread.close()
    await other.close()


async def test_weights_that_are_in_memory_are_not_read_again(backend, monkeypatch):
    read: list[str] = []
    plain = backend._unpack
    monkeypatch.setattr(backend, "_unpack", lambda f: (read.append(f.digest), plain(f))[1])
    outcome = await train_adapter(backend, epochs=1)
    assert len(read) == 1
    await backend.train(TrainJob(outcome.files, CONFIG, TrainingConfig(3, 1), ROWS))
    await backend.load(outcome.files)
    assert len(read) == 1


async def test_the_base_is_untouched_bit_for_bit(backend):
    request = [ScoreRequest(r.prompt, o) for r, o in zip(ROWS, OUTPUTS, strict=True)]
    before = await backend.score(request)
    await train_adapter(backend)
    assert await backend.score(request) == before


async def test_training_does_not_change_its_start(backend):
    start = await backend.initialize(CONFIG, seed=0)
    digest = await backend.load(start)
    request = [ScoreRequest(ROWS[0].prompt, OUTPUTS[0], digest)]
    before = await backend.score(request)
    await backend.train(TrainJob(start, CONFIG, TrainingConfig(epochs=3), ROWS))
    assert await backend.score(request) == before


async def test_progress_is_told_after_every_step(backend):
    start = await backend.initialize(CONFIG, seed=0)
    seen = []
    job = TrainJob(start, CONFIG, TrainingConfig(batch_size=1, epochs=2), ROWS)
    await backend.train(job, seen.append)
    assert [(p.step, p.steps) for p in seen] == [(i, 6) for i in range(1, 7)]


async def test_a_token_stops_training_within_a_step(backend):
    start = await backend.initialize(CONFIG, seed=0)
    token, seen = CancellationToken(), []

    def stop_at_three(progress):
        seen.append(progress.step)
        if progress.step == 3:
            token.cancel()

    with pytest.raises(Cancelled):
        await backend.train(
            TrainJob(start, CONFIG, TrainingConfig(epochs=500), ROWS), stop_at_three, token
        )
    assert seen == [1, 2, 3]


async def test_generation_goes_on_while_training_runs(backend):
    start = await backend.initialize(CONFIG, seed=0)
    steps = []
    training = asyncio.create_task(
        backend.train(TrainJob(start, CONFIG, TrainingConfig(epochs=60), ROWS), steps.append)
    )
    while not steps:
        await asyncio.sleep(0.001)
    await backend.generate([GenerateRequest("play", GenerationConfig(max_tokens=4))])
    assert not training.done()
    await training


async def test_streamed_pieces_join_to_the_answer(backend):
    (whole,) = await backend.generate([GenerateRequest("play", SHORT)])
    pieces = [p async for p in backend.stream(GenerateRequest("play", SHORT))]
    assert "".join(p.text for p in pieces) == whole.text
    assert pieces[-1].generation == whole


async def test_a_stream_left_early_leaves_the_backend_free(backend):
    stream = backend.stream(GenerateRequest("play", GenerationConfig(max_tokens=200)))
    async for _ in stream:
        break
    await stream.aclose()
    assert len(await backend.generate([GenerateRequest("play", SHORT)])) == 1


async def test_an_unknown_adapter_is_an_error_not_the_base(backend):
    with pytest.raises(NotFound):
        await backend.generate([GenerateRequest("play", SHORT, "0" * 64)])


async def test_targets_that_match_nothing_list_what_there_is(backend):
    with pytest.raises(UnknownTarget, match="q_proj"):
        await backend.initialize(AdapterConfig(target_modules="q_proj,nope"), seed=0)


async def test_an_adapter_over_the_limit_is_refused_before_it_exists(tmp_path):
    from ouroboros.testing.tiny import tiny_model

    wide = tiny_model(tmp_path, hidden_size=1024, intermediate_size=4096)
    backend = LocalBackend.open(str(wide), dtype="float32", threads=1)
    with pytest.raises(TooLarge, match="10 MiB"):
        await backend.initialize(AdapterConfig(rank=256, target_modules="all-linear"), seed=0)
    await backend.close()


async def test_damaged_files_are_refused(backend):
    files = await backend.initialize(CONFIG, seed=0)
    with pytest.raises(InvalidAdapter):
        await backend.validate(AdapterFiles(files.config, files.weights[:-1]))
    with pytest.raises(InvalidAdapter):
        await backend.load(AdapterFiles(b"{}", files.weights))


async def test_initial_factors_are_drawn_from_the_seed(backend):
    one, same, other = [await backend.initialize(CONFIG, seed=s) for s in (1, 1, 2)]
    assert one == same != other
    tensors = load_tensors(one.weights)
    assert all(not t.any() for name, t in tensors.items() if "lora_B" in name)
    a = tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"]
    assert a.shape == (8, 64)
    assert torch.all(a.abs() <= 64**-0.5)


async def test_many_more_adapters_than_fit_in_memory_are_all_answered(tiny_folder):
    """As a cache over any number of registered adapters: LRU, and no request's adapter is let go."""
    runtime = load_model(str(tiny_folder()), dtype="float32")
    backend = LocalBackend(runtime, threads=1, resident_bytes=250_000)
    files = [await backend.initialize(CONFIG, seed) for seed in range(12)]

    async def ask(one: AdapterFiles):
        digest = one.digest
        if not await backend.is_loaded(digest):
            await backend.load(one)
        return await backend.generate([GenerateRequest("play", SHORT, digest)])

    answers = await asyncio.gather(*(ask(one) for one in files * 2))
    assert len({a.tokens for (a,) in answers}) == 1  # fresh adapters answer as the base
    assert await backend.is_loaded(files[-1].digest)  # a promise, which the next load keeps
    one_more = await backend.initialize(CONFIG, seed=99)
    await ask(one_more)
    assert await backend.generate([GenerateRequest("play", SHORT, files[-1].digest)])
    assert await backend.is_loaded(one_more.digest)
    are_loaded = [await backend.is_loaded(one.digest) for one in files]
    assert 0 < sum(are_loaded) < 6
    await backend.close()


async def test_requests_of_separate_calls_run_in_one_batch(backend):
    """Fails when concurrent calls are answered one after the other again."""
    passes = []
    hook = backend._runtime.model.register_forward_pre_hook(lambda *_: passes.append(1))
    calls = (backend.generate([GenerateRequest(r.prompt, SHORT)]) for r in ROWS)
    answers = await asyncio.gather(*calls)
    hook.remove()
    lengths = [len(a.tokens) for (a,) in answers]
    assert len(passes) < sum(lengths)
    assert len(passes) <= max(lengths) + len(ROWS)


def hold_worker(gate: threading.Event):
    """Work that keeps the worker at its one step until the gate opens."""
    gate.wait()
    yield


async def test_a_hostile_import_is_refused_while_the_worker_is_busy(backend):
    """Else an answer would wait for as long as it takes to see what is wrong with the files."""
    gate = threading.Event()
    busy = asyncio.create_task(backend._worker.run(hold_worker(gate)))
    patterns = {f"(.*a{n})*(.*b)*x": 4 for n in range(1_000)}
    config = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}
    hostile = json.dumps(config | {"rank_pattern": patterns}).encode()
    with pytest.raises(InvalidAdapter, match="take too long to match"):
        await asyncio.wait_for(backend.validate(AdapterFiles(hostile, b"")), 60)
    assert not busy.done()
    gate.set()
    await busy


async def test_requests_that_come_at_once_start_the_batch_once(backend, monkeypatch):
    """Else each start takes turns of its own, and a call to the worker waits for as many."""
    gate, started = threading.Event(), []
    steps = backend._batch.steps
    monkeypatch.setattr(backend._batch, "steps", lambda: (started.append(1), steps())[1])
    busy = asyncio.create_task(backend._worker.run(hold_worker(gate)))
    tasks = [
        asyncio.create_task(backend.generate([GenerateRequest(r.prompt, SHORT, None)])) for r in ROWS
    ]
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(busy, *tasks)
    assert len(started) == 1


async def test_one_stream_s_end_leaves_the_others_going(backend):
    long = GenerationConfig(max_tokens=60)
    other = asyncio.create_task(backend.generate([GenerateRequest("hello", long)]))
    stream = backend.stream(GenerateRequest("play", long))
    async for _ in stream:
        break
    await stream.aclose()
    ((continued,), (alone,)) = await other, await backend.generate([GenerateRequest("hello", long)])
    assert continued.tokens == alone.tokens
