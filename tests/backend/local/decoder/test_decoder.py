"""Our own passes over a model's layers: what the model itself computes, forward and backward."""

import dataclasses

import pytest
import torch

from ouroboros.backend.local.decoder import decoder
from ouroboros.backend.local.decoder import functional as formulas
from ouroboros.backend.local.decoder.length_groups import group_by_length
from ouroboros.backend.local.forward import packing as forward
from ouroboros.backend.local.forward.packing import collect_layer_inputs, compute_token_logprobs
from ouroboros.backend.local.model.load import BaseRuntime, load_base
from ouroboros.backend.local.model.tokenizer import TokenizedPair
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.inject import inject
from ouroboros.lora.weights import LowRank

LENGTHS = [(20, 3), (25, 2), (90, 7), (1, 1), (88, 30)]
VARIANTS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    ("mistral", {}),
    ("qwen2", {}),
    ("qwen3", {}),
]


def sequences(vocabulary: int) -> list[TokenizedPair]:
    chance = torch.Generator().manual_seed(3)

    def ids(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(5, vocabulary, (n,), generator=chance).tolist())

    return [TokenizedPair(ids(p), ids(o)) for p, o in LENGTHS]


def adapter(frozen: BaseRuntime, seed: int, rank: int, names: tuple[str, ...] = ()) -> BankedAdapter:
    chance = torch.Generator().manual_seed(seed)
    weights = {
        s.path: LowRank(
            torch.randn(rank, s.inputs, generator=chance) * 0.1,
            torch.randn(s.outputs, rank, generator=chance) * 0.1,
            2.0,
        )
        for s in frozen.base.linears
        if not names or s.name in names
    }
    banked = BankedAdapter(weights)
    inject(frozen.model, banked.paths, frozen.bank)
    return banked


def compute_logprobs_and_gradients(frozen: BaseRuntime, adapters: list[BankedAdapter | None]):
    """Log-probabilities of a batch, and the gradients of its adapters."""
    rows = sequences(frozen.base.fingerprint.vocabulary)
    distinct = [a for a in dict.fromkeys(adapters) if a]
    with distinct[0].training() as first, distinct[1].training() as second:
        logprobs, _ = compute_token_logprobs(frozen, rows, adapters)
        logprobs.square().sum().backward()
    return logprobs.detach(), first, second


def plain(frozen: BaseRuntime) -> BaseRuntime:
    """The same model, which computes for itself."""
    copy = dataclasses.replace(frozen)
    copy.__dict__["decoder"] = None
    return copy


@pytest.mark.parametrize(("architecture", "changes"), VARIANTS)
@pytest.mark.parametrize("long", [False, True], ids=["short", "long"])
def test_values_and_gradients_are_the_model_s_own(architecture, changes, long, tiny_folder, monkeypatch):
    frozen = load_base(str(tiny_folder(architecture, **changes)), dtype="float32")
    if long:
        monkeypatch.setattr(formulas, "FUSED_ATTENTION_TOKENS", 50)
    one, two = adapter(frozen, 1, 4), adapter(frozen, 2, 2, ("v_proj", "down_proj"))
    mixed = [one, None, two, one, two]
    for ours, theirs in zip(
        compute_logprobs_and_gradients(frozen, mixed),
        compute_logprobs_and_gradients(plain(frozen), mixed),
        strict=True,
    ):
        assert theirs.abs().sum() > 0
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_inputs_that_layers_see_are_the_model_s_own(frozen):
    rows = sequences(frozen.base.fingerprint.vocabulary)
    one = adapter(frozen, 1, 4)
    ours, theirs = (
        collect_layer_inputs(frozen, rows, one),
        collect_layer_inputs(plain(frozen), rows, one),
    )
    assert ours.keys() == theirs.keys() == set(one.paths)
    first = next(p for p in one.paths if p.endswith("layers.0.mlp.up_proj"))
    torch.testing.assert_close(ours[first], theirs[first][0], atol=1e-5, rtol=1e-5)


def test_known_architectures_never_fall_back_to_the_model_s_passes(tiny_folder, monkeypatch):
    called = []
    monkeypatch.setattr(forward, "_run_model", lambda *_: called.append(1))
    for architecture in decoder.ARCHITECTURES:
        frozen = load_base(str(tiny_folder(architecture)), dtype="float32")
        rows = sequences(frozen.base.fingerprint.vocabulary)
        compute_token_logprobs(frozen, rows, [None] * len(rows))
    assert called == []


def test_a_sequence_past_the_sliding_window_is_left_to_the_model(tiny_folder):
    frozen = load_base(str(tiny_folder("mistral", sliding_window=16)), dtype="float32")
    assert frozen.decoder is not None
    assert frozen.decoder.fits_sliding_window([16, 3])
    assert not frozen.decoder.fits_sliding_window([17, 3])


def test_nothing_is_kept_below_the_first_adapted_layer(frozen):
    rows = sequences(frozen.base.fingerprint.vocabulary)
    whole = adapter(frozen, 1, 4)
    upper = BankedAdapter({p: w for p, w in whole.weights().items() if ".layers.1." in p})
    with upper.training():
        logprobs, _ = compute_token_logprobs(frozen, rows, [upper] * 5)
        assert _blocks(logprobs.grad_fn) == 2
    with whole.training():
        logprobs, _ = compute_token_logprobs(frozen, rows, [whole] * 5)
        assert _blocks(logprobs.grad_fn) == 4


def _blocks(node) -> int:
    """How many blocks of layers autograd will go through."""
    seen, waiting = set(), [node]
    while waiting:
        at = waiting.pop()
        if at is not None and at not in seen:
            seen.add(at)
            waiting.extend(n for n, _ in at.next_functions)
    return sum(type(n).__name__ in ("_AttentionFunctionBackward", "_MlpFunctionBackward") for n in seen)


def test_sequences_of_like_length_share_a_group():
    assert len(group_by_length([30, 31, 29, 28], torch.device("cpu"))) == 1
    groups = group_by_length([200, 20, 199, 21], torch.device("cpu"))
    assert [len(g.sequences) for g in groups] == [2, 2]
    assert sorted(t for g in groups for t in g.queries.tokens.tolist()) == list(range(440))
