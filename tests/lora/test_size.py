"""Sizes are predicted to the byte, before anything is allocated."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.errors import InvalidConfig, TooLarge
from ouroboros.domain.weights import MAX_BYTES, Precision
from ouroboros.lora.peft_files import pack
from ouroboros.lora.size import check_size, largest_rank, predicted_size
from ouroboros.lora.targets import select_layers
from ouroboros.lora.weights import LoraWeights

Weights = Callable[..., LoraWeights]
BaseOf = Callable[..., BaseModel]


@pytest.fixture
def llama_7b(base_of: BaseOf) -> BaseModel:
    """Llama-2-7B's attention and feed-forward layers, as shapes."""
    square = {f"self_attn.{n}_proj": (4096, 4096) for n in "qkvo"}
    mlp = {"gate_proj": (4096, 11008), "up_proj": (4096, 11008), "down_proj": (11008, 4096)}
    return base_of({**square, **{f"mlp.{n}": w for n, w in mlp.items()}}, layers=32)


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("rank", [1, 7, 16])
@pytest.mark.parametrize("targets", ["auto", "all-linear"])
def test_prediction_is_exact(
    base: BaseModel, random_weights: Weights, precision: Precision, rank: int, targets: str
):
    config = AdapterConfig(rank=rank, target_modules=targets)
    files = pack(random_weights(config), config, base, precision)
    assert predicted_size(base, select_layers(base, config), rank, precision) == len(files.weights)


def test_seven_billion_parameters_on_queries_and_values(llama_7b: BaseModel):
    """The figures of the mission's own example: rank 8 fits in bfloat16, rank 16 does not."""
    assert check_size(llama_7b, AdapterConfig(rank=8)) is Precision.BFLOAT16
    with pytest.raises(TooLarge):
        check_size(llama_7b, AdapterConfig(rank=16))
    assert check_size(llama_7b, AdapterConfig(rank=16, precision="int8")) is Precision.INT8


def test_refusal_names_the_size_the_largest_rank_and_what_else_would_fit(llama_7b: BaseModel):
    with pytest.raises(TooLarge) as refused:
        check_size(llama_7b, AdapterConfig(rank=16))
    size = predicted_size(llama_7b, select_layers(llama_7b, AdapterConfig()), 16, Precision.BFLOAT16)
    assert f"{size:,} bytes" in refused.value.message
    assert refused.value.hint == ('What fits: precision="int8"; precision="int4"; rank 9 in bfloat16.')


def test_refusal_of_many_modules_offers_fewer(llama_7b: BaseModel):
    with pytest.raises(TooLarge, match='target_modules="auto"'):
        check_size(llama_7b, AdapterConfig(rank=8, target_modules="all-linear"))


def test_largest_rank_fits_and_the_next_does_not(llama_7b: BaseModel):
    shapes = select_layers(llama_7b, AdapterConfig())
    for precision in Precision:
        rank = largest_rank(llama_7b, shapes, precision)
        assert predicted_size(llama_7b, shapes, rank, precision) <= MAX_BYTES
        assert predicted_size(llama_7b, shapes, rank + 1, precision) > MAX_BYTES


def test_largest_rank_is_zero_where_nothing_fits(base_of: BaseOf):
    huge = base_of({"self_attn.q_proj": (200_000, 200_000), "self_attn.v_proj": (8, 8)}, layers=100)
    assert largest_rank(huge, huge.linears, Precision.FLOAT32) == 0
    with pytest.raises(TooLarge, match="nothing on these layers"):
        check_size(huge, AdapterConfig(rank=256, precision="int4"))


def test_small_adapters_are_kept_in_float32(base: BaseModel):
    assert check_size(base, AdapterConfig()) is Precision.FLOAT32


def test_int4_refuses_odd_widths(base_of: BaseOf):
    odd = base_of({"q_proj": (33, 32), "v_proj": (32, 32)})
    with pytest.raises(InvalidConfig, match="odd width"):
        check_size(odd, AdapterConfig(precision="int4"))


def test_packing_over_the_limit_is_refused(base_of: BaseOf, random_weights: Weights):
    wide = base_of({"q_proj": (4096, 4096), "v_proj": (4096, 4096)}, layers=2)
    config = AdapterConfig(rank=128)
    weights = random_weights(config, on=wide)
    assert len(pack(weights, config, wide).weights) <= MAX_BYTES, "stored in bfloat16"
    with pytest.raises(TooLarge, match="the limit is 10,485,760"):
        pack(weights, replace(config, precision="float32"), wide)
