"""Adapters to files and back."""

import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import BaseMismatch, InvalidAdapter, TooLarge
from ouroboros.domain.weights import MAX_BYTES, AdapterFiles, Precision
from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.peft_files import pack, storage_rounding, unpack
from ouroboros.lora.weights import LoraWeights, LowRank

Weights = Callable[..., LoraWeights]
CONFIG = AdapterConfig(rank=4, target_modules="q_proj,v_proj")


@pytest.fixture
def files(base: BaseModel, random_weights: Weights) -> AdapterFiles:
    return pack(random_weights(CONFIG), CONFIG, base)


def rewrite_tensors(
    files: AdapterFiles, change: Callable[[dict[str, torch.Tensor]], None]
) -> AdapterFiles:
    """The same adapter as another program would write it, with its tensors changed."""
    tensors = safetensors_load(files.weights)
    change(tensors)
    return replace(files, weights=safetensors_save(tensors))


def change_config(files: AdapterFiles, **changes: object) -> AdapterFiles:
    return replace(files, config=json.dumps({**json.loads(files.config), **changes}).encode())


@pytest.mark.parametrize("precision", list(Precision))
def test_floats_at_the_configs_own_scale_are_rounded_and_nothing_else(
    base: BaseModel, random_weights: Weights, precision: Precision
):
    weights = random_weights(CONFIG)
    files = pack(weights, CONFIG, base, precision)
    rounded = storage_rounding(files)
    assert (rounded is None) == (precision in (Precision.INT8, Precision.INT4))
    if rounded is not None:
        banked = BankedAdapter(weights)
        banked.round_to(rounded)
        assert torch.equal(banked.master, BankedAdapter(unpack(files, base).weights).master)
    assert storage_rounding(pack(weights, replace(CONFIG, alpha=7.0), base, precision)) is None


@pytest.mark.parametrize("rslora", [False, True])
def test_float32_comes_back_bit_for_bit(base: BaseModel, random_weights: Weights, rslora: bool):
    config = replace(CONFIG, use_rslora=rslora, alpha=12.5)
    weights = random_weights(config)
    adapter = unpack(pack(weights, config, base), base)
    assert adapter.base_fingerprint == base.fingerprint
    assert adapter.base_name == base.name
    assert adapter.config.target_names == ("q_proj", "v_proj")
    assert (adapter.config.rank, adapter.config.alpha) == (4, 12.5)
    for path, low in weights.items():
        assert torch.equal(adapter.weights[path].a, low.a)
        assert torch.equal(adapter.weights[path].b, low.b)
        assert adapter.weights[path].scale == low.scale


@pytest.mark.parametrize("precision", list(Precision))
def test_reading_and_writing_again_changes_nothing(
    base: BaseModel, random_weights: Weights, precision: Precision
):
    first = pack(random_weights(CONFIG), CONFIG, base, precision)
    adapter = unpack(first, base)
    assert pack(adapter.weights, adapter.config, base, precision) == first


def test_bytes_do_not_depend_on_the_order_of_layers(base: BaseModel, random_weights: Weights):
    weights = random_weights(CONFIG)
    turned = {path: weights[path] for path in reversed(list(weights))}
    assert pack(turned, CONFIG, base) == pack(weights, CONFIG, base)


def test_layers_may_differ_in_rank_and_scale(base: BaseModel, random_weights: Weights):
    weights = dict(random_weights(CONFIG))
    path = "model.layers.1.self_attn.q_proj"
    weights[path] = LowRank(torch.randn(2, 32), torch.randn(32, 2), 0.3)
    files = pack(weights, CONFIG, base)
    document = json.loads(files.config)
    assert document["rank_pattern"] == {path: 2}
    assert list(document["alpha_pattern"]) == [path]
    assert unpack(files, base).weights[path].scale == pytest.approx(0.3, rel=1e-12)


def test_others_adapters_carry_no_fingerprint_and_may_be_half_precision(
    base: BaseModel, files: AdapterFiles
):
    def halve(tensors: dict[str, torch.Tensor]) -> None:
        tensors.update({name: t.half() for name, t in tensors.items()})

    adapter = unpack(rewrite_tensors(files, halve), base)
    assert adapter.base_fingerprint is None
    assert all(low.a.dtype == torch.float32 for low in adapter.weights.values())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_both_ways(
    base: BaseModel, random_weights: Weights, files: AdapterFiles, value: float
):
    weights = random_weights(CONFIG)
    next(iter(weights.values())).b[3, 1] = value
    with pytest.raises(InvalidAdapter, match="NaN or infinity"):
        pack(weights, CONFIG, base)

    def poison(tensors: dict[str, torch.Tensor]) -> None:
        next(iter(tensors.values()))[0, 0] = value

    with pytest.raises(InvalidAdapter, match="NaN or infinity"):
        unpack(rewrite_tensors(files, poison), base)


def test_large_numbers_are_sound_though_their_sum_is_not_finite(
    base: BaseModel, random_weights: Weights
):
    weights = random_weights(CONFIG)
    path, low = next(iter(weights.items()))
    low.b[:] = 3e38
    assert torch.equal(unpack(pack(weights, CONFIG, base), base).weights[path].b, low.b)


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"tokenizer": "other", "vocabulary": 32064}, "320 entries there, 32064 here"),
        ({"template": "other"}, "chat template differs"),
        ({"weights": "other"}, "weights differ"),
    ],
)
def test_another_base_is_refused_in_words(
    base: BaseModel, files: AdapterFiles, difference: dict, words: str
):
    other = replace(base, fingerprint=replace(base.fingerprint, **difference))
    with pytest.raises(BaseMismatch, match=words):
        unpack(files, other)


def test_layers_the_base_lacks_and_other_widths_are_refused(
    base_of: Callable[..., BaseModel], files: AdapterFiles
):
    plain = rewrite_tensors(files, lambda tensors: None)
    with pytest.raises(InvalidAdapter, match="toy does not have"):
        unpack(plain, base_of({"self_attn.q_proj": (32, 32)}))
    wider = base_of({"self_attn.q_proj": (64, 32), "self_attn.v_proj": (32, 16)})
    with pytest.raises(InvalidAdapter, match="it takes 64 to 32"):
        unpack(plain, wider)


NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.lm_head.weight",
        "base_model.model.x.lora_magnitude_vector",
        "base_model.model.x.lora_embedding_A",
        "base_model.model.x.lora_B.bias",
        "base_model.model.x.lora_A.default.weight",
        "base_model.model.../../etc/passwd.lora_A.weight",
        "base_model.model.a\nb.lora_A.weight",
        "base_model.model.\u00e4.lora_A.weight",
        "x.lora_A.weight",
        "",
    ],
)
def test_tensors_that_are_no_low_rank_factor_are_refused(
    base: BaseModel, files: AdapterFiles, name: str
):
    with pytest.raises(InvalidAdapter, match="not a low-rank factor"):
        unpack(rewrite_tensors(files, lambda tensors: tensors.update({name: torch.ones(2, 2)})), base)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop(NAME),
        lambda t: t.update({NAME: torch.ones(5, 32)}),
        lambda t: t.update({NAME: torch.ones(4, 32, 1)}),
        lambda t: t.update({NAME: torch.ones(4, 32, dtype=torch.int8)}),
        lambda t: t.update({NAME.replace("weight", "scale"): torch.ones(4, 1)}),
    ],
)
def test_factors_that_do_not_fit_together_are_refused(
    base: BaseModel, files: AdapterFiles, change: Callable
):
    with pytest.raises(InvalidAdapter):
        unpack(rewrite_tensors(files, change), base)


def test_config_and_weights_must_belong_together(base: BaseModel, files: AdapterFiles):
    with pytest.raises(InvalidAdapter, match="update of rank 8"):
        unpack(change_config(files, r=8), base)
    with pytest.raises(InvalidAdapter):
        unpack(change_config(files, peft_type="OUROBOROS_INT8"), base)


def test_an_empty_file_adapts_nothing(base: BaseModel, files: AdapterFiles):
    with pytest.raises(InvalidAdapter, match="no layer"):
        unpack(replace(files, weights=safetensors_save({})), base)


def test_a_damaged_record_of_the_base_is_refused(base: BaseModel, files: AdapterFiles):
    tensors = safetensors_load(files.weights)
    damaged = safetensors_save(tensors, {"base.config": "x"})
    with pytest.raises(InvalidAdapter, match="record of its base"):
        unpack(replace(files, weights=damaged), base)


def test_a_file_over_the_limit_is_refused_unread(base: BaseModel, files: AdapterFiles):
    with pytest.raises(TooLarge, match="10 MiB"):
        unpack(replace(files, weights=bytes(MAX_BYTES + 1)), base)


@pytest.mark.parametrize("percent", range(100))
def test_truncated_files_are_refused(base: BaseModel, files: AdapterFiles, percent: int):
    with pytest.raises(InvalidAdapter):
        unpack(replace(files, weights=files.weights[: len(files.weights) * percent // 100]), base)
    with pytest.raises(InvalidAdapter):
        unpack(replace(files, config=files.config[: len(files.config) * percent // 100]), base)


@pytest.mark.parametrize("precision", [Precision.INT8, Precision.INT4])
def test_integer_files_say_so_and_are_no_peft_files(
    base: BaseModel, random_weights: Weights, largest_difference: Callable, precision: Precision
):
    """Other programs must refuse them instead of reading integers as weights."""
    config = replace(CONFIG, precision=precision.value)
    weights = random_weights(config)
    files = pack(weights, config, base)
    assert json.loads(files.config)["peft_type"] == f"OUROBOROS_{precision.name}"
    adapter = unpack(files, base)
    assert adapter.config.precision == precision.value
    assert 0 < largest_difference(weights, adapter.weights) < 0.2


def test_without_a_base_the_files_alone_are_checked(files: AdapterFiles, random_weights: Weights):
    adapter = unpack(files)
    assert adapter.config.target_names == ("q_proj", "v_proj")
    assert adapter.weights.keys() == random_weights(CONFIG).keys()
