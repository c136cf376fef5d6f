"""The running batch: everyone is answered as if alone, whoever else joins, leaves or fails."""

import pytest
import torch

from ouroboros.backend.base import GenerationChunk
from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.serving.continuous_batch import (
    PREFILL_TOKENS,
    ActiveRequest,
    ContinuousBatch,
)
from ouroboros.backend.local.serving.sequence import GeneratedSequence, TokenizedPrompt
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import BackendError, Cancelled
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.weights import LowRank

PROMPTS = (
    "where is my parcel?",
    "play",
    "I was charged twice for one order; what should I do? It was by card, last week, and again",
    "set an alarm",
    "please play some music in the kitchen",
    "hello",
)
LENGTHS = (12, 30, 5, 24, 9, 18)
ARCHITECTURES = "llama qwen3 mistral gemma2 gemma3_text gpt2 gpt_neox opt bloom falcon".split()


def adapter_on(runtime, seed: int, rank: int = 2) -> BankedAdapter:
    chance = torch.Generator().manual_seed(seed)
    weights = {
        s.path: LowRank(
            torch.randn(rank, s.inputs, generator=chance) / 8,
            torch.randn(s.outputs, rank, generator=chance),
            1.0,
        )
        for s in runtime.base.linears
        if seed % 2 or "mlp" not in s.path
    }
    adapter = BankedAdapter(weights, runtime.dtype)
    inject(runtime.model, adapter.paths, runtime.bank)
    return adapter


def request(runtime, prompt: str, adapter=None, *, cancel=None, tell=None, **config) -> ActiveRequest:
    question = TokenizedPrompt(
        runtime.tokenizer.encode_prompt(prompt), GenerationConfig(**config), adapter
    )
    return ActiveRequest(
        GeneratedSequence(question, runtime.tokenizer), tell, cancel or CancellationToken()
    )


def run(runtime, *requests: ActiveRequest, most_rows: int = 64) -> list[Generation]:
    batch = ContinuousBatch(runtime, most_rows)
    batch.submit(requests)
    for _ in batch.steps():
        pass
    return [a.future.result(0) for a in requests]


def make_requests(runtime, adapters, **config) -> list[ActiveRequest]:
    return [
        request(runtime, p, a, max_tokens=n, **config)
        for p, a, n in zip(PROMPTS, adapters, LENGTHS, strict=True)
    ]


def same(one: Generation, other: Generation) -> None:
    assert one.tokens == other.tokens
    assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_that_join_and_leave_are_answered_as_each_alone(tiny_folder, architecture):
    runtime = load_base(str(tiny_folder(architecture)), "float32")
    one, two, three = (adapter_on(runtime, seed, rank) for seed, rank in ((1, 2), (2, 4), (3, 1)))
    adapters = (one, None, two, one, three, two)
    together = make_requests(runtime, adapters)
    batch = ContinuousBatch(runtime, max_rows=4)
    batch.submit(together[:3])
    for step, _ in enumerate(batch.steps()):
        if step == 4:  # in the middle of the first three answers
            batch.submit(together[3:])
    alone = [run(runtime, requests)[0] for requests in make_requests(runtime, adapters)]
    for requests, expected in zip(together, alone, strict=True):
        same(requests.future.result(0), expected)
    plain = [run(runtime, requests)[0].tokens for requests in make_requests(runtime, (None,) * 6)]
    assert [a.tokens for a in alone] != plain


def test_neighbours_do_not_disturb_a_row_s_randomness(runtime):
    adapters = (adapter_on(runtime, 1), None, adapter_on(runtime, 2), None, None, None)
    config = {"temperature": 1.5, "seed": 7}
    together = run(runtime, *make_requests(runtime, adapters, **config))
    alone = [run(runtime, requests)[0] for requests in make_requests(runtime, adapters, **config)]
    for one, other in zip(together, alone, strict=True):
        same(one, other)


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 1}),
        ("mistral", {"sliding_window": 24}),  # some rows outgrow it, and all go on by the modules
        ("qwen2", {}),
        ("qwen3", {}),
    ],
)
def test_own_passes_give_the_tokens_that_the_model_s_modules_give(
    tiny_folder, architecture, shape, monkeypatch
):
    runtime = load_base(str(tiny_folder(architecture, **shape)), "float32")
    one, two = (adapter_on(runtime, seed, rank) for seed, rank in ((1, 2), (2, 4)))
    passes = []
    monkeypatch.setattr(Decoder, "decode_step", _count_calls(Decoder.decode_step, passes))
    decoder_answers = run(runtime, *make_requests(runtime, (one, None, two, one, two, two)))
    assert passes
    monkeypatch.setattr(Decoder, "fits_sliding_window", lambda *_: False)
    for answer, expected in zip(
        decoder_answers,
        run(runtime, *make_requests(runtime, (one, None, two, one, two, two))),
        strict=True,
    ):
        same(answer, expected)


def _count_calls(method, passes):
    return lambda *args, **more: (passes.append(1), method(*args, **more))[1]


def test_rows_share_their_forward_passes(runtime, monkeypatch):
    """Fails when requests are answered one by one again, whatever their answers."""
    adapters = [adapter_on(runtime, seed) for seed in range(6)]
    passes = []
    for name in ("final_hidden", "decode_step"):
        monkeypatch.setattr(Decoder, name, _count_calls(getattr(Decoder, name), passes))
    hook = runtime.model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        answers = run(
            runtime,
            *(request(runtime, p, a, max_tokens=10) for p, a in zip(PROMPTS, adapters, strict=True)),
        )
    finally:
        hook.remove()
    assert len(passes) == max(len(g.tokens) for g in answers)


def test_a_cancelled_row_leaves_and_the_others_go_on(runtime):
    token = CancellationToken()
    chunks: list[GenerationChunk] = []

    def stop_at_three(piece: GenerationChunk) -> None:
        chunks.append(piece)
        if len(chunks) == 3:
            token.cancel()

    requests = make_requests(runtime, (None,) * 6)
    requests[1] = request(runtime, PROMPTS[1], max_tokens=30, cancel=token, tell=stop_at_three)
    waiting = request(runtime, PROMPTS[0], cancel=token)
    batch = ContinuousBatch(runtime, max_rows=6)
    batch.submit([*requests, waiting])
    for _ in batch.steps():
        pass
    for cancelled in (requests[1], waiting):
        with pytest.raises(Cancelled):
            cancelled.future.result(0)
    assert len(chunks) == 3
    for one, other in zip(requests, make_requests(runtime, (None,) * 6), strict=True):
        if one is not requests[1]:
            same(one.future.result(0), run(runtime, other)[0])


def test_a_row_whose_output_is_not_finite_fails_alone(runtime):
    broken = BankedAdapter(
        {
            s.path: LowRank(torch.full((1, s.inputs), 3e38), torch.full((s.outputs, 1), 3e38), 1.0)
            for s in runtime.base.linears[:1]
        }
    )
    good = adapter_on(runtime, 1)
    requests = make_requests(runtime, (good, broken, None, good, None, broken))
    batch = ContinuousBatch(runtime)
    batch.submit(requests)
    for _ in batch.steps():
        pass
    for one, other in zip(
        requests, make_requests(runtime, (good, None, None, good, None, None)), strict=True
    ):
        if one.adapter is broken:
            with pytest.raises(BackendError, match="not finite"):
                one.future.result(0)
        else:
            same(one.future.result(0), run(runtime, other)[0])


def test_who_cannot_be_told_fails_alone(runtime):
    def tell(_: GenerationChunk) -> None:
        raise RuntimeError("nobody listens")

    requests = [request(runtime, "play", tell=tell), request(runtime, "play", max_tokens=5)]
    batch = ContinuousBatch(runtime)
    batch.submit(requests)
    for _ in batch.steps():
        pass
    with pytest.raises(RuntimeError, match="nobody listens"):
        requests[0].future.result(0)
    assert len(requests[1].future.result(0).tokens) == 5


def test_a_forward_pass_that_breaks_fails_its_rows_and_the_batch_goes_on(runtime, monkeypatch):
    following = Decoder.decode_step

    def break_once(*_):
        monkeypatch.setattr(Decoder, "decode_step", following)
        raise RuntimeError("broken")

    first, second = request(runtime, "play"), request(runtime, "play", max_tokens=4)
    monkeypatch.setattr(Decoder, "decode_step", break_once)
    batch = ContinuousBatch(runtime)
    batch.submit([first])
    steps = batch.steps()
    next(steps)
    batch.submit([second])
    for _ in steps:
        pass
    with pytest.raises(RuntimeError, match="broken"):
        first.future.result(0)
    assert len(second.future.result(0).tokens) == 4


def test_who_waits_for_a_first_turn_that_never_comes_is_told(runtime):
    batch, waiting = ContinuousBatch(runtime), request(runtime, "play")
    batch.submit([waiting])
    batch.steps()
    batch.close()
    with pytest.raises(BackendError, match="closed"):
        waiting.future.result(0)


def test_a_flood_for_one_adapter_keeps_no_other_waiting(runtime):
    busy, rare = adapter_on(runtime, 1), adapter_on(runtime, 2)
    flood = [request(runtime, "play", busy, max_tokens=4) for _ in range(8)]
    late = request(runtime, "play", rare, max_tokens=4)
    batch = ContinuousBatch(runtime, max_rows=2)
    batch.submit([*flood, late])
    steps = batch.steps()
    while not late.future.done():
        next(steps)
    assert sum(a.future.done() for a in flood) <= 1


def test_long_prompts_are_run_a_few_at_a_time(runtime, monkeypatch):
    long = "parcel " * 60
    tokens = len(runtime.tokenizer.encode_prompt(long))
    requests = [request(runtime, long, max_tokens=2) for _ in range(6)]
    seen: list[int] = []
    prompts = Decoder.final_hidden
    monkeypatch.setattr(
        Decoder,
        "final_hidden",
        lambda d, ids, *args, **more: (seen.append(len(ids)), prompts(d, ids, *args, **more))[1],
    )
    run(runtime, *requests)
    assert 6 * tokens > PREFILL_TOKENS
    assert max(seen) <= PREFILL_TOKENS
