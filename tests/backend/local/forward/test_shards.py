"""A pass divided among threads gives what the whole pass gives, and the same bits each time."""

import threading
from collections import Counter

import pytest
import torch

from ouroboros.backend.base import TrainJob
from ouroboros.backend.local import LocalBackend
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.forward.packing import (
    collect_layer_inputs,
    compute_output_logits,
    compute_token_logprobs,
)
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.runtime import threads
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import Row
from ouroboros.lora.peft_files import unpack
from tests.backend.local.forward.test_packing import MIXED, random_adapter, sequences

ROWS = tuple(Row(f"where is parcel number {i}?" + " please" * i, "shipping") for i in range(6))


@pytest.fixture(autouse=True)
def _every_pass_is_worth_two_threads(monkeypatch):
    monkeypatch.setattr(threads, "SHARD_LAYER_PRODUCTS", 1.0)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(frozen):
    frozen.threads.max_threads = 2
    yield frozen
    frozen.threads.close()


@pytest.fixture
def passes(monkeypatch) -> list[tuple[int, int, int]]:
    """The thread, the operations' threads and the sequences of every pass through the layers."""
    seen: list[tuple[int, int, int]] = []
    plain = Decoder.final_hidden

    def record_pass(self, ids, positions, layout, *arguments, **named):
        seen.append((threading.get_ident(), torch.get_num_threads(), len(layout.lengths)))
        return plain(self, ids, positions, layout, *arguments, **named)

    monkeypatch.setattr(Decoder, "final_hidden", record_pass)
    return seen


def logprobs_and_gradients(runtime, rows, adapters, max_threads, recompute=False):
    """Of each output token, and of each trained adapter by the sum of its squares."""
    runtime.threads.max_threads = max_threads
    first, second = adapters[0], adapters[1]
    with first.training() as first_grads, second.training({second.paths[0]: "b"}) as second_grads:
        logits, output = compute_output_logits(runtime, rows, adapters, recompute)
        logprobs = logits.log_softmax(-1).gather(1, output.targets[:, None])[:, 0]
        logprobs.square().sum().backward()
        return logprobs.detach(), output.sequence_index, first_grads.clone(), second_grads.clone()


@pytest.mark.parametrize("recompute", [False, True], ids=["saved", "recomputed"])
def test_shards_give_what_the_whole_pass_gives(two_threads, passes, recompute):
    rows = sequences(two_threads.base.fingerprint.vocabulary, [*MIXED, (12, 4)])
    first, second = random_adapter(two_threads, 1), random_adapter(two_threads, 2)
    adapters = [first, second, None, first, second]
    whole = logprobs_and_gradients(two_threads, rows, adapters, 1, recompute)
    assert [n for _, _, n in passes] == [5]
    passes.clear()
    divided = logprobs_and_gradients(two_threads, rows, adapters, 2, recompute)
    assert sum(n for _, _, n in passes) == 5
    assert len({thread for thread, _, _ in passes}) == 2
    for ours, theirs in zip(divided, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_answers_to_one_prompt_share_it_on_one_thread(two_threads, passes):
    prompts = [tuple(range(20, 60)), tuple(range(60, 100))]
    rows = [TokenizedPair(prompt, (7, 8 + i)) for i in range(2) for prompt in prompts]
    first, second = random_adapter(two_threads, 1), random_adapter(two_threads, 2)
    adapters = [first, second] * 2
    whole = logprobs_and_gradients(two_threads, rows, adapters, 1)
    passes.clear()
    divided = logprobs_and_gradients(two_threads, rows, adapters, 2)
    assert [n for _, _, n in passes] == [3, 3]  # a prompt and two answers on each thread
    for ours, theirs in zip(divided, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_shards_give_the_same_bits_whichever_ends_first(two_threads, monkeypatch):
    rows = sequences(two_threads.base.fingerprint.vocabulary)
    first, second = random_adapter(two_threads, 1), random_adapter(two_threads, 2)
    adapters, plain = [first, second, first, second], Decoder.final_hidden
    results, caller = [], threading.get_ident()
    for waiting in (0, 1):  # the caller's thread waits for the other one, and the other way about
        ended = threading.Event()

        def in_order(self, *arguments, ended=ended, waiting=waiting, **named):
            waits = (threading.get_ident() == caller) == (waiting == 0)
            if waits:
                assert ended.wait(60)
            hidden = plain(self, *arguments, **named)
            ended.set()
            return hidden

        monkeypatch.setattr(Decoder, "final_hidden", in_order)
        results.append(logprobs_and_gradients(two_threads, rows, adapters, 2))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_sequences_are_scored_in_shards_without_gradients(two_threads, passes):
    rows = sequences(two_threads.base.fingerprint.vocabulary)
    adapter = random_adapter(two_threads, 1)
    adapters = [adapter, None, adapter, None]
    with torch.no_grad():
        divided, owner = compute_token_logprobs(two_threads, rows, adapters)
        two_threads.threads.max_threads = 1
        whole, whole_owner = compute_token_logprobs(two_threads, rows, adapters)
    assert len(passes) == 3
    torch.testing.assert_close(divided, whole, atol=1e-5, rtol=1e-4)
    assert torch.equal(owner, whole_owner)
    assert not divided.requires_grad


def test_shards_continue_after_cached_prefixes(two_threads, passes):
    """The prompts are the base's; a shard runs what the adapter acts on."""
    rows = sequences(two_threads.base.fingerprint.vocabulary, [(30, 3), (25, 6), (40, 4)])
    first, second = random_adapter(two_threads, 1), random_adapter(two_threads, 2)
    first.invocation_tokens = second.invocation_tokens = 4
    adapters = [first, second, first]
    whole = logprobs_and_gradients(two_threads, rows, adapters, 1)
    passes.clear()
    divided = logprobs_and_gradients(two_threads, rows, adapters, 2)
    assert sorted(n for _, _, n in passes) == [1, 2]
    assert len({thread for thread, _, _ in passes}) == 2
    for ours, theirs in zip(divided, whole, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_the_inputs_of_layers_are_collected_in_shards(two_threads, passes):
    rows = sequences(two_threads.base.fingerprint.vocabulary)
    adapter = random_adapter(two_threads, 1)
    divided = collect_layer_inputs(two_threads, rows, adapter)
    assert len({thread for thread, _, _ in passes}) == 2
    two_threads.threads.max_threads = 1
    whole = collect_layer_inputs(two_threads, rows, adapter)
    assert divided.keys() == whole.keys()
    for path, x in whole.items():
        torch.testing.assert_close(divided[path].T @ divided[path], x.T @ x, atol=1e-4, rtol=1e-4)
    shared = [
        {id(x) for path, x in inputs.items() if "layers.0.self_attn" in path and "o_proj" not in path}
        for inputs in (divided, whole)
    ]
    assert [len(ids) for ids in shared] == [1, 1]


@pytest.mark.parametrize("failing", ["forward", "backward"])
def test_a_failed_shard_fails_the_pass_and_leaves_no_thread_at_work(two_threads, monkeypatch, failing):
    rows = sequences(two_threads.base.fingerprint.vocabulary)
    adapter, running = random_adapter(two_threads, 1), Counter()
    name = "mlp_forward" if failing == "forward" else "mlp_backward"
    layer = type(two_threads.decoder._layers[0])
    plain = getattr(layer, name)

    def run_or_fail(self, *arguments):
        running["entered"] += 1
        if threading.current_thread().name.startswith("ouroboros-shard"):
            raise MemoryError("no memory for this shard")
        result = plain(self, *arguments)
        running["ended"] += 1
        return result

    monkeypatch.setattr(layer, name, run_or_fail)
    with adapter.training() as grads:
        with pytest.raises(MemoryError, match="no memory for this shard"):
            logits, _ = compute_output_logits(two_threads, rows, [adapter] * 4)
            logits.sum().backward()
        assert running["ended"] == running["entered"] - 1  # the caller's shard ran to its end
        # The next pass starts without what the failed one left in the shards.
        monkeypatch.setattr(layer, name, plain)
        grads.zero_()
        compute_output_logits(two_threads, rows, [adapter] * 4)[0].sum().backward()
        after = grads.clone()
        grads.zero_()
        compute_output_logits(two_threads, rows, [adapter] * 4)[0].sum().backward()
        assert torch.equal(after, grads)


async def test_a_training_on_two_threads_learns_what_one_thread_learns(tiny_folder, passes):
    config, training = AdapterConfig(4, 1e-2), TrainingConfig(3, 2)
    learned = {}
    for max_threads in (1, 2, 2):
        backend = LocalBackend.open(str(tiny_folder()), dtype="float32", threads=max_threads)
        start = await backend.initialize(config, 0)
        passes.clear()
        files = (await backend.train(TrainJob(start, config, training, ROWS))).files
        # Each pass of three rows is two shards, on two threads, and no operation has more than one.
        assert {threads for _, threads, _ in passes} == {1}
        assert len({thread for thread, _, _ in passes}) == max_threads
        learned.setdefault(max_threads, []).append(files)
        await backend.close()
    first, second = learned[2]
    assert first.weights == second.weights
    alone = unpack(learned[1][0]).weights
    for path, low in unpack(first).weights.items():
        torch.testing.assert_close(low.a, alone[path].a, atol=1e-4, rtol=0)
        torch.testing.assert_close(low.b, alone[path].b, atol=1e-4, rtol=0)


def test_the_longest_rows_are_divided_evenly(frozen):
    frozen.threads.max_threads = 2
    assert frozen.threads.split_rows(frozen.base, [50, 10, 40, 20]) == [[0, 1], [2, 3]]
    assert frozen.threads.split_rows(frozen.base, [7]) == [[0]]


async def test_a_short_training_runs_on_one_thread(tiny_folder, passes, monkeypatch):
    monkeypatch.setattr(threads, "SHARD_LAYER_PRODUCTS", 1e18)
    monkeypatch.setattr(threads, "SMALL_LAYER_PRODUCTS", 0.0)
    backend = LocalBackend.open(str(tiny_folder()), dtype="float32", threads=2)
    config = AdapterConfig(4, 1e-2)
    start = await backend.initialize(config, 0)
    await backend.train(TrainJob(start, config, TrainingConfig(3, 1), ROWS, anchors=()))
    assert {(thread, count) for thread, count, _ in passes} == {(passes[0][0], 1)}
    await backend.close()


def test_short_passes_are_not_divided(frozen, monkeypatch):
    monkeypatch.setattr(threads, "SHARD_LAYER_PRODUCTS", 1e18)
    frozen.threads.max_threads = 2
    assert frozen.threads.split_rows(frozen.base, [50, 10, 40, 20]) == [[0, 1, 2, 3]]
