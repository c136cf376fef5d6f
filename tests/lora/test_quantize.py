"""Integer storage: what it keeps, and how much it loses."""

from collections.abc import Callable

import pytest
import torch

from ouroboros.domain.config import AdapterConfig
from ouroboros.domain.weights import Precision
from ouroboros.lora.quantize import decode, encode, from_int4, from_int8, to_int4, to_int8
from ouroboros.lora.weights import LoraWeights

Weights = Callable[..., LoraWeights]


@pytest.mark.parametrize(
    ("store", "restore", "levels"), [(to_int8, from_int8, 127), (to_int4, from_int4, 7)]
)
def test_numbers_on_the_grid_survive_exactly(store: Callable, restore: Callable, levels: int):
    grid = torch.randint(-levels, levels + 1, (3, 64), generator=torch.Generator().manual_seed(0))
    grid[:, ::32] = levels
    matrix = grid * 0.5
    assert torch.equal(restore(*store(matrix)), matrix)


@pytest.mark.parametrize("width", [2, 30, 32, 34, 96])
def test_int4_keeps_any_even_width(width: int):
    matrix = torch.randn(3, width)
    codes, scale = to_int4(matrix)
    assert codes.shape == (3, width // 2)
    restored = from_int4(codes, scale)
    group = matrix.abs().max()
    assert restored.shape == matrix.shape
    assert (restored - matrix).abs().max() <= group / 7 * 0.51


@pytest.mark.parametrize("store", [to_int8, to_int4])
def test_zeros_stay_zeros(store: Callable):
    numbers, scale = store(torch.zeros(2, 32))
    assert not scale.any()
    restore = from_int8 if store is to_int8 else from_int4
    assert not restore(numbers, scale).any()


@pytest.mark.parametrize(
    ("precision", "worst"),
    [
        (Precision.FLOAT32, 0.0),
        (Precision.BFLOAT16, 0.0),
        (Precision.INT8, 0.02),
        (Precision.INT4, 0.2),
    ],
)
def test_the_update_loses_little(
    random_weights: Weights, largest_difference: Callable, precision: Precision, worst: float
):
    """BFLOAT16 is rounded when the file's bytes are made, so nothing is lost here."""
    weights = random_weights(AdapterConfig(target_modules="all-linear"))
    stored = {p: decode(encode(low, precision), low.scale) for p, low in weights.items()}
    assert largest_difference(weights, stored) <= worst
