"""What sequences of a pass begin with in common is run once, and every number stays as it was."""

import pytest
import torch

from ouroboros.backend.local.decoder.decoder import Decoder
from ouroboros.backend.local.forward import shared_prefixes
from ouroboros.backend.local.forward.packing import (
    collect_layer_inputs,
    compute_output_logits,
    compute_token_logprobs,
)
from ouroboros.backend.local.forward.pass_tokens import (
    PassTokens,
    least_pass_tokens,
    split_into_passes,
    total_pass_tokens,
)
from ouroboros.backend.local.forward.prefix_reuse import split_into_spans
from ouroboros.backend.local.forward.shared_prefixes import PackedSpan, share_prefixes
from ouroboros.backend.local.model.load import BaseRuntime, load_base
from ouroboros.backend.local.model.memory_plan import MemoryPlan
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.backend.local.serving.prefill import prefill_prompts
from ouroboros.backend.local.training import shared_gradients
from ouroboros.backend.local.training.rows import TokenizedRow
from ouroboros.domain.data import Row
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.weights import LowRank

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt2"]
"""The last three run by their own modules, which share nothing."""

TEMPLATE = tuple(range(20, 45))


def random_ids(count: int, seed: int) -> tuple[int, ...]:
    chance = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(5, 100, (count,), generator=chance).tolist())


def pair(prompt: int, output: int, seed: int, before: tuple[int, ...] = TEMPLATE) -> TokenizedPair:
    return TokenizedPair(before + random_ids(prompt, seed), random_ids(output, 100 + seed))


ROWS = [pair(1, 2, 1), pair(17, 5, 2), pair(6, 1, 3), pair(30, 9, 4)]
PAIRED = [
    *ROWS[:2],
    TokenizedPair(ROWS[1].prompt, random_ids(7, 50)),  # chosen and rejected share a prompt
    TokenizedPair(ROWS[3].prompt, random_ids(1, 51)),
    ROWS[3],
    pair(12, 3, 5, before=()),  # shares nothing
    TokenizedPair((*TEMPLATE, 7), (8,)),  # the shared beginning is all but the last prompt token
    ROWS[0],
    ROWS[0],  # the same row twice
]
BATCHES = {"ragged": ROWS, "pairs": PAIRED, "one": ROWS[1:2], "same": [ROWS[2]] * 3}


def random_adapter(
    runtime: BaseRuntime, seed: int, rank: int = 4, invocation: int | None = None
) -> BankedAdapter:
    chance = torch.Generator().manual_seed(seed)
    weights = {
        s.path: LowRank(
            torch.randn(rank, s.inputs, generator=chance) * 0.1,
            torch.randn(s.outputs, rank, generator=chance) * 0.1,
            2.0,
        )
        for s in runtime.base.linears
    }
    adapter = BankedAdapter(weights, invocation_tokens=invocation)
    inject(runtime.model, adapter.paths, runtime.bank)
    return adapter


def losses_and_gradients(
    runtime: BaseRuntime,
    batches: list[list[TokenizedPair]],
    adapters: list[list[BankedAdapter | None]],
    recompute: bool = False,
) -> list[torch.Tensor]:
    """Log-probabilities over all batches, and the gradients of their squares for each adapter."""
    distinct = list(dict.fromkeys(a for batch in adapters for a in batch if a is not None))
    contexts = [adapter.training() for adapter in distinct]
    grads = [context.__enter__() for context in contexts]
    logprobs_of_batches = []
    for rows, of_rows in zip(batches, adapters, strict=True):
        logits, batch = compute_output_logits(runtime, rows, of_rows, recompute=recompute)
        logprobs = logits.float().log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        if logprobs.requires_grad:
            logprobs.square().sum().backward()
        logprobs_of_batches.append(logprobs.detach())
    result = [torch.cat(logprobs_of_batches), *(grad.clone() for grad in grads)]
    for context in contexts:
        context.__exit__(None, None, None)
    return result


def assert_equals_separate_rows(
    runtime: BaseRuntime,
    rows: list[TokenizedPair],
    adapters: list[BankedAdapter | None],
    recompute: bool = False,
) -> None:
    together = losses_and_gradients(runtime, [rows], [adapters], recompute)
    alone = losses_and_gradients(runtime, [[row] for row in rows], [[a] for a in adapters])
    for ours, theirs in zip(together, alone, strict=True):
        assert theirs.abs().sum() > 0
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(ours / scale, theirs / scale, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", BATCHES.values(), ids=BATCHES.keys())
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_losses_and_gradients_are_those_of_separate_rows(architecture, rows, tiny_folder):
    runtime = load_base(str(tiny_folder(architecture)), dtype="float32")
    adapter = random_adapter(runtime, 1)
    assert_equals_separate_rows(runtime, rows, [adapter] * len(rows))


@pytest.mark.parametrize("recompute", [False, True], ids=["saved", "recomputed"])
def test_rows_of_several_adapters_and_of_the_base_share_a_pass(frozen, recompute):
    one, two = random_adapter(frozen, 1), random_adapter(frozen, 2, rank=2)
    answers = random_adapter(frozen, 3, invocation=2)  # its prompts come from the cache of prefixes
    adapters = [one, two, None, one, two, answers, one, answers, None]
    assert_equals_separate_rows(frozen, PAIRED, adapters, recompute)


def test_attention_in_several_groups_gives_the_same(frozen, monkeypatch):
    monkeypatch.setattr("ouroboros.backend.local.decoder.length_groups.PAIRS_PER_GROUP", 0)
    adapter = random_adapter(frozen, 1)
    assert_equals_separate_rows(frozen, PAIRED, [adapter] * len(PAIRED))


def test_scores_of_the_base_are_those_of_separate_rows(frozen):
    with torch.no_grad():
        together, owner = compute_token_logprobs(frozen, PAIRED, [None] * len(PAIRED))
        alone = [compute_token_logprobs(frozen, [row], [None])[0] for row in PAIRED]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert owner.tolist() == [i for i, row in enumerate(PAIRED) for _ in row.output]


def test_prompts_that_share_a_beginning_are_prefilled_as_if_alone(frozen):
    adapter = random_adapter(frozen, 1)
    prompts = [row.prompt for row in PAIRED]
    adapters = [adapter, None, adapter, adapter, None, None, adapter, None, adapter]
    with torch.no_grad():
        logits, caches = prefill_prompts(frozen, prompts, adapters)
        for i, (prompt, of_prompt) in enumerate(zip(prompts, adapters, strict=True)):
            alone, (cache,) = prefill_prompts(frozen, [prompt], [of_prompt])
            torch.testing.assert_close(logits[i], alone[0], atol=1e-5, rtol=1e-5)
            for (keys, values), (keys_alone, values_alone) in zip(caches[i], cache, strict=True):
                torch.testing.assert_close(keys, keys_alone, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(values, values_alone, atol=1e-5, rtol=1e-5)


def test_layer_inputs_count_a_shared_token_once_for_each_row(frozen):
    adapter = random_adapter(frozen, 1)
    together = collect_layer_inputs(frozen, PAIRED, adapter)
    alone = [collect_layer_inputs(frozen, [row], adapter) for row in PAIRED]
    assert together.keys() == alone[0].keys()
    for path, x in together.items():
        gram = torch.stack([each[path].T @ each[path] for each in alone]).sum(0)
        scale = float(gram.abs().max())
        torch.testing.assert_close(x.T @ x / scale, gram / scale, atol=1e-5, rtol=1e-5)
    tensors = {id(x) for x in together.values()}
    assert len(tensors) < len(together)  # q, k and v are given the same tensor, gate and up too


def test_a_pass_runs_each_shared_beginning_once(frozen):
    adapter = random_adapter(frozen, 1)
    spans = split_into_spans(PAIRED, [adapter] * len(PAIRED), [0] * len(PAIRED))
    distinct = {row.prompt[:n] for row in PAIRED for n in range(1, len(row.prompt))}
    last_tokens = sum(1 + len(row.output) for row in PAIRED)
    assert sum(map(len, spans)) <= len(distinct) + last_tokens + shared_prefixes.MIN_SAVED_TOKENS
    assert sum(map(len, spans)) < 0.5 * sum(map(len, PAIRED))


def test_spans_form_a_tree_of_what_enough_sequences_share():
    rows = [(*TEMPLATE, *random_ids(n, 7), 1, 2) for n in (20, 20, 20, 0)]
    spans = share_prefixes(rows, [len(row) - 1 for row in rows], ["a"] * 4)
    assert spans == [
        PackedSpan(0, 0, 25, None, 4),
        PackedSpan(0, 25, 46, 0, 3),
        PackedSpan(0, 46, 47, 1),
        PackedSpan(1, 46, 47, 1),
        PackedSpan(2, 46, 47, 1),
        PackedSpan(3, 25, 27, 0),
    ]


@pytest.mark.parametrize(
    ("beginnings", "adapters"),
    [([40, 40], ["a", "b"]), ([0, 40], ["a", "a"]), ([8, 40], ["a", "a"])],
    ids=["two adapters", "not shareable", "too short"],
)
def test_sequences_stay_whole_where_nothing_is_to_be_shared(beginnings, adapters):
    row = random_ids(50, 1)
    spans = share_prefixes([row, row], beginnings, adapters)
    assert spans == [PackedSpan(0, 0, 50), PackedSpan(1, 0, 50)]


def test_answer_only_adapters_and_very_long_rows_share_nothing(frozen, monkeypatch):
    plain, answers = random_adapter(frozen, 1), random_adapter(frozen, 2, invocation=2)

    def count(adapter: BankedAdapter) -> int:
        return len(split_into_spans(ROWS, [adapter] * len(ROWS), [0] * len(ROWS)))

    assert (count(plain), count(answers)) == (len(ROWS) + 1, len(ROWS))
    limit = "ouroboros.backend.local.forward.prefix_reuse.FUSED_ATTENTION_TOKENS"
    monkeypatch.setattr(limit, 20)
    assert count(plain) == len(ROWS)


def test_a_pass_that_saves_little_runs_whole_sequences():
    rows = [random_ids(20, 1) + random_ids(400, seed) for seed in range(2)]
    assert share_prefixes(rows, [len(row) - 1 for row in rows], ["a", "a"]) == [
        PackedSpan(0, 0, 420),
        PackedSpan(1, 0, 420),
    ]


def test_pass_tokens_are_those_that_a_pass_runs(frozen):
    adapter = random_adapter(frozen, 1)
    for rows in (*BATCHES.values(), [ROWS[1], pair(40, 1, 9, before=())]):
        spans = split_into_spans(rows, [adapter] * len(rows), [0] * len(rows))
        assert total_pass_tokens(frozen, rows, adapter) == sum(map(len, spans))


def test_a_row_adds_least_to_a_pass_with_all_others(frozen):
    adapter = random_adapter(frozen, 1)
    least = least_pass_tokens(frozen, PAIRED, adapter)
    for i, row in enumerate(PAIRED):
        pass_tokens = PassTokens(frozen)
        for other in PAIRED[:i] + PAIRED[i + 1 :]:
            pass_tokens.add(other, adapter)
        assert least[i] == pass_tokens.add(row, adapter)


def test_adapters_and_models_that_share_nothing_count_whole_sequences(frozen, tiny_folder):
    one, two = random_adapter(frozen, 1), random_adapter(frozen, 2)
    pass_tokens, row = PassTokens(frozen), ROWS[1]
    assert [pass_tokens.add(row, a) for a in (one, two, None)] == [len(row)] * 3
    by_modules = load_base(str(tiny_folder("gpt2")), dtype="float32")
    assert total_pass_tokens(by_modules, [row, row], None) == 2 * len(row)


def test_rows_that_share_a_long_beginning_fit_fewer_passes(frozen, monkeypatch):
    budget = 2 * len(TEMPLATE) + 20
    monkeypatch.setattr(BaseRuntime, "token_budget", budget)
    rows = [pair(4, 2, seed) for seed in range(12)]
    passes = list(split_into_passes(frozen, rows, [None] * len(rows)))
    assert [i for run in passes for i in run] == list(range(12))
    runs = [[rows[i] for i in run] for run in passes]
    assert all(total_pass_tokens(frozen, run, None) <= budget for run in runs)
    assert len(passes) < sum(map(len, rows)) / budget


@pytest.mark.parametrize("serving", [False, True])
def test_a_training_s_passes_hold_what_they_run(frozen, serving, monkeypatch):
    """The prefix counts once: all rows fit one pass that whole rows would fill twice."""
    sizes: list[int] = []
    plain = Decoder.final_hidden

    def record_tokens(self, ids, *arguments, **named):
        sizes.append(len(ids))
        return plain(self, ids, *arguments, **named)

    monkeypatch.setattr(Decoder, "final_hidden", record_tokens)
    monkeypatch.setattr(shared_gradients, "SERVING_PASS_TOKENS", 160)
    rows = [TokenizedRow(Row("prompt", "output"), (pair(8, 2, seed),)) for seed in range(8)]
    adapter = random_adapter(frozen, 1)
    batcher = shared_gradients.GradientBatcher(frozen, lambda: serving)
    with adapter.training() as grads:
        total = torch.zeros_like(grads)
        plan = MemoryPlan(160, recompute=False, predicted_bytes=0)
        list(batcher.add_gradient(adapter, None, rows, grads, total, plan))  # all of its steps
    assert sizes == [len(TEMPLATE) + 8 * 10]
    assert sum(len(row) for row in rows) > 160
    assert total.abs().sum() > 0
