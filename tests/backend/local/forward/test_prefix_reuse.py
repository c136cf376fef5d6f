"""The base reads a prompt once for all adapters that leave it to it, and nothing changes by that."""

import asyncio
from dataclasses import replace

import pytest
import torch

from ouroboros.backend.base import Checkpoints, GenerateRequest, ScoreRequest, TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.cache.prefix_cache import BLOCK_TOKENS, PrefixCache
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.forward import prefix_reuse as reading
from ouroboros.backend.local.forward import shared_prefixes
from ouroboros.backend.local.model.load import load_base
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Message, Row
from ouroboros.domain.generation import GenerationConfig
from ouroboros.lora.peft_files import unpack

CONFIG = AdapterConfig(learning_rate=1e-2, target_modules="all-linear", acts_on="answer")
LONG = "please play some music in the kitchen and set an alarm for seven; was I charged twice? " * 2
ROWS = (
    Row(LONG, "shipping"),
    Row("I was charged twice for one order", "billing"),
    Row("play", "media"),
    Row(LONG + "hello", "front desk"),
)
SHORT = GenerationConfig(max_tokens=6)


@pytest.fixture
def runs(monkeypatch) -> list[int]:
    """The tokens that each pass over the base runs."""
    seen: list[int] = []
    plain = Decoder.final_hidden

    def record_final_hidden(self, ids, *rest, **more):
        seen.append(len(ids))
        return plain(self, ids, *rest, **more)

    monkeypatch.setattr(Decoder, "final_hidden", record_final_hidden)
    return seen


@pytest.fixture(params=["llama", "qwen3"])
async def backend(request, tiny_folder):
    backend = LocalBackend(load_base(str(tiny_folder(request.param)), "float32"), threads=1)
    yield backend
    await backend.close()


async def open_without_cache(tiny_folder, backend, call):
    """The same asked of a backend that reads all of every sequence in one pass."""
    name = backend._runtime.base.architecture
    other = LocalBackend(load_base(str(tiny_folder(name)), "float32"), threads=1)
    other._runtime.__dict__["decoder"] = None
    try:
        return await call(other)
    finally:
        await other.close()


def job(start, **changes) -> TrainJob:
    return replace(TrainJob(start, CONFIG, TrainingConfig(batch_size=3, epochs=3), ROWS), **changes)


async def test_a_training_is_the_same_as_in_whole_passes(backend, tiny_folder):
    # Adam goes by signs: where a gradient is nearly zero, rounding moves a weight by a step. Not here.
    start = await backend.initialize(CONFIG, 3)
    ours = unpack((await backend.train(job(start))).files).weights
    theirs = unpack(
        (await open_without_cache(tiny_folder, backend, lambda b: b.train(job(start)))).files
    ).weights
    for path, low in ours.items():
        torch.testing.assert_close(low.a, theirs[path].a, atol=1e-5, rtol=0)
        torch.testing.assert_close(low.b, theirs[path].b, atol=1e-5, rtol=0)


async def test_scores_and_answers_are_too_whether_read_before_or_not(backend, tiny_folder):
    files = (await backend.train(job(await backend.initialize(CONFIG, 0)))).files

    async def ask(one):
        digest = await one.load(files)
        scores = [
            ScoreRequest(r.prompt, r.output or "", a, drift=True) for r in ROWS for a in (digest, None)
        ]
        requests = [GenerateRequest(r.prompt, SHORT, a) for r in ROWS for a in (digest, None)]
        return await one.score(scores), await one.generate(requests)

    expected = await open_without_cache(tiny_folder, backend, ask)
    for store in (PrefixCache(), backend._runtime.prefix_cache, PrefixCache(0)):
        object.__setattr__(backend._runtime, "prompts", store)
        scores, answers = await ask(backend)
        for ours, theirs in zip(scores, expected[0], strict=True):
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
            assert ours.drift == pytest.approx(theirs.drift, abs=1e-5)
        assert [a.tokens for a in answers] == [a.tokens for a in expected[1]]


async def test_a_prompt_is_read_once_for_all_epochs_and_adapters(backend, runs):
    starts = [await backend.initialize(CONFIG, seed) for seed in (0, 1)]
    await backend.train(job(starts[0]))
    opening, codec = len((await backend.base()).invocation_tokens), backend._runtime.tokenizer
    sequences = [codec.encode_pair(r.prompt, r.output or "") for r in ROWS]
    read = sum(len(s.prompt) - opening for s in sequences)
    answers = sum(len(s.output) + opening for s in sequences)
    assert sum(runs) <= read + 3 * answers
    runs.clear()
    await backend.train(job(starts[1]))
    assert sum(runs) == 3 * answers


async def test_a_system_prompt_is_read_once_for_all_requests(backend, runs):
    digests = [await backend.load(await backend.initialize(CONFIG, seed)) for seed in range(3)]
    requests = [
        GenerateRequest((Message("system", LONG), Message("user", f"{n}?")), SHORT, digest)
        for n, digest in enumerate(digests)
    ]
    for request in requests:
        await backend.generate([request])
    first, *others = runs
    assert all(
        n <= first - len(backend._runtime.tokenizer._encode_text(LONG)) + BLOCK_TOKENS for n in others
    )


async def test_an_ordinary_adapter_reads_its_prompts_itself(backend, runs, monkeypatch):
    monkeypatch.setattr(shared_prefixes, "MIN_SAVED_TOKENS", 1000)  # what rows share would run once
    ordinary = replace(CONFIG, acts_on="all")
    start = await backend.initialize(ordinary, 0)
    await backend.train(job(start, adapter=ordinary))
    codec = backend._runtime.tokenizer
    assert sum(runs) == 3 * sum(len(codec.encode_pair(r.prompt, r.output or "")) for r in ROWS)
    assert backend._runtime.prefix_cache.nbytes == 0


async def test_a_training_gone_on_with_ends_with_the_same_bits(backend):
    start = await backend.initialize(CONFIG, 0)
    states: list[bytes] = []
    checkpointed = job(start, checkpoints=Checkpoints(seconds=0.0))
    one = await backend.train(checkpointed, lambda p: states.append(p.checkpoint or b""))
    object.__setattr__(backend._runtime, "prompts", PrefixCache())
    resumed = await backend.train(job(start, checkpoints=Checkpoints(resume=states[2])))
    assert resumed.files == one.files


async def test_fused_trainings_share_what_is_read(backend):
    starts = [await backend.initialize(CONFIG, seed) for seed in range(3)]
    alone = [await backend.train(job(start)) for start in starts]
    together = await asyncio.gather(*(backend.train(job(start)) for start in starts))
    for ours, theirs in zip(together, alone, strict=True):
        for path, low in unpack(ours.files).weights.items():
            torch.testing.assert_close(low.b, unpack(theirs.files).weights[path].b, atol=1e-5, rtol=0)


def beginning(tokens: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 2, 2, tokens, 4, generator=torch.Generator().manual_seed(seed))


def same(cached: torch.Tensor | None, states: torch.Tensor) -> bool:
    return cached is not None and torch.equal(cached, states)


class TestPromptStore:
    def test_what_was_put_is_found(self):
        store, states = PrefixCache(), beginning(70)
        store.put_blocks(tuple(range(70)), states)
        assert same(store.get_blocks(tuple(range(70))), states)
        assert store.nbytes == states.nbytes

    def test_a_common_beginning_is_found_piece_by_piece(self):
        store, states = PrefixCache(), beginning(70)
        store.put_blocks(tuple(range(70)), states)
        cached = store.get_blocks((*range(66), 1, 2, 3))
        assert same(cached, states[:, :, :, : 2 * BLOCK_TOKENS])
        assert store.get_blocks((9, *range(69))) is None

    def test_what_is_kept_twice_is_counted_once(self):
        store, states = PrefixCache(), beginning(70)
        for _ in range(3):
            store.put_prefix(tuple(range(70)), states)
        assert store.nbytes == states.nbytes

    def test_it_stays_within_its_bytes_and_lets_go_of_what_was_used_least_recently(self):
        states = beginning(BLOCK_TOKENS)
        store = PrefixCache(2 * states.nbytes)
        rows = [tuple(range(n, n + BLOCK_TOKENS)) for n in range(3)]
        for row in rows[:2]:
            store.put_blocks(row, states)
        store.get_blocks(rows[0])
        store.put_blocks(rows[2], states)
        assert [store.get_blocks(row) is not None for row in rows] == [True, False, True]
        assert store.nbytes == 2 * states.nbytes

    def test_what_is_larger_than_all_of_it_or_not_finite_is_not_kept(self):
        store = PrefixCache(100)
        store.put_blocks(tuple(range(BLOCK_TOKENS)), beginning(BLOCK_TOKENS))
        assert store.nbytes == 0
        store = PrefixCache()
        store.put_blocks(tuple(range(BLOCK_TOKENS)), beginning(BLOCK_TOKENS) / 0)
        assert store.nbytes == 0

    def test_a_whole_beginning_is_another_thing_than_its_pieces(self):
        store, states = PrefixCache(), beginning(BLOCK_TOKENS)
        store.put_blocks(tuple(range(BLOCK_TOKENS)), states)
        assert store.get_prefix(tuple(range(BLOCK_TOKENS))) is None
        store.put_prefix(tuple(range(BLOCK_TOKENS)), states)
        assert same(store.get_prefix(tuple(range(BLOCK_TOKENS))), states)
        assert store.get_hidden(tuple(range(BLOCK_TOKENS)), 0, 1) is None
        assert store.nbytes == 2 * states.nbytes

    def test_the_last_pieces_of_a_beginning_go_before_its_first(self):
        store = PrefixCache(beginning(2 * BLOCK_TOKENS).nbytes)
        store.put_blocks(tuple(range(2 * BLOCK_TOKENS)), beginning(2 * BLOCK_TOKENS))
        store.put_blocks(tuple(range(500, 500 + BLOCK_TOKENS)), beginning(BLOCK_TOKENS))
        cached = store.get_blocks(tuple(range(2 * BLOCK_TOKENS)))
        assert cached is not None and cached.shape[3] == BLOCK_TOKENS


def test_very_long_answers_are_run_with_their_prompts():
    from ouroboros.backend.local.model.tokenizer import TokenizedPair
    from ouroboros.lora.bank import BankedAdapter

    adapter = BankedAdapter({}, invocation_tokens=2)
    assert len(reading.select_base_prefix(TokenizedPair((1,) * 50, (2,) * 20), adapter)) == 48
    assert reading.select_base_prefix(TokenizedPair((1,) * 50, (2,) * 2000), adapter) == ()
