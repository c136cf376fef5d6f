"""Packing: many sequences in one row give what each gives alone."""

import pytest
import torch

from ouroboros.backend.local.decoder.packed_attention import choose_packed_layout
from ouroboros.backend.local.forward.packing import compute_token_logprobs, is_packable
from ouroboros.backend.local.forward.prefix_reuse import split_by_tokens
from ouroboros.backend.local.model.load import load_base
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.weights import LowRank
from ouroboros.testing.tiny import ARCHITECTURES

MIXED = [(5, 3), (40, 2), (9, 7), (1, 1)]
"""Prompt and output lengths so unequal that attention runs over the whole packed row."""
ALIKE = [(20, 3), (25, 2), (22, 7), (27, 1)]
"""Lengths so alike that attention runs on the sequences side by side."""


def sequences(vocabulary: int, lengths=MIXED) -> list[TokenizedPair]:
    chance = torch.Generator().manual_seed(3)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, vocabulary, (n,), generator=chance).tolist())

    return [TokenizedPair(ids(p), ids(o)) for p, o in lengths]


def random_adapter(frozen, seed: int) -> BankedAdapter:
    chance = torch.Generator().manual_seed(seed)
    weights = {
        s.path: LowRank(
            torch.randn(4, s.inputs, generator=chance) * 0.1,
            torch.randn(s.outputs, 4, generator=chance) * 0.1,
            2.0,
        )
        for s in frozen.base.linears
    }
    adapter = BankedAdapter(weights)
    inject(frozen.model, adapter.paths, frozen.bank)
    return adapter


@pytest.mark.parametrize("lengths", [MIXED, ALIKE], ids=["mixed", "alike"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_batch_gives_what_each_sequence_gives_alone(architecture, lengths, tiny_folder):
    frozen = load_base(str(tiny_folder(architecture)), dtype="float32")
    rows = sequences(frozen.base.fingerprint.vocabulary, lengths)
    adapters = [random_adapter(frozen, 1), None, random_adapter(frozen, 2), None]
    with torch.no_grad():
        together, owner = compute_token_logprobs(frozen, rows, adapters)
        alone = [
            compute_token_logprobs(frozen, [r], [a])[0] for r, a in zip(rows, adapters, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert owner.tolist() == [i for i, row in enumerate(rows) for _ in row.output]


def test_sequences_alike_are_attended_side_by_side():
    cpu = torch.device("cpu")
    assert choose_packed_layout([23, 27, 29, 28], cpu) is not None
    assert choose_packed_layout([8, 42, 16, 2], cpu) is None
    assert choose_packed_layout([30], cpu) is None


def test_gradients_through_packed_attention_are_exact(frozen):
    rows = sequences(frozen.base.fingerprint.vocabulary, ALIKE)
    adapter = random_adapter(frozen, 1)
    with adapter.training() as grads:
        compute_token_logprobs(frozen, rows, [adapter] * 4)[0].sum().backward()
        together = grads.clone()
        grads.zero_()
        for row in rows:
            compute_token_logprobs(frozen, [row], [adapter])[0].sum().backward()
    torch.testing.assert_close(together, grads, atol=1e-4, rtol=1e-4)


def test_log_probabilities_are_the_plain_model_s(frozen):
    (row, *_) = sequences(frozen.base.fingerprint.vocabulary)
    with torch.no_grad():
        logits = frozen.model(torch.tensor([row.prompt + row.output])).logits[0]
        ours, _ = compute_token_logprobs(frozen, [row], [None])
    at = range(len(row.prompt) - 1, len(row) - 1)
    plain = [logits[i].log_softmax(-1)[t] for i, t in zip(at, row.output, strict=True)]
    torch.testing.assert_close(ours, torch.stack(plain), atol=1e-5, rtol=1e-5)


def test_alibi_and_unknown_architectures_are_padded_instead():
    assert is_packable("llama")
    assert not is_packable("bloom")
    assert not is_packable("something_new")


def test_runs_keep_order_and_budget():
    assert list(split_by_tokens([3, 3, 3, 9, 1], budget=6)) == [[0, 1], [2], [3], [4]]


def test_an_item_over_the_budget_runs_alone():
    assert list(split_by_tokens([2, 50, 2], budget=10)) == [[0], [1], [2]]
