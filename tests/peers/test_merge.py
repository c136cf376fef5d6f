"""Merging beside PEFT's `add_weighted_adapter`: equal where that is right, and how wrong elsewhere."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from ouroboros.domain.merging import MergeRecipe, MergeSpace, MergeStrategy
from ouroboros.lora.merge import merge
from ouroboros.lora.weights import LoraWeights, LowRank

AVERAGE = MergeRecipe(MergeStrategy.AVERAGE)

pytestmark = pytest.mark.filterwarnings("ignore")

WIDTHS = {"up": (24, 40), "down": (40, 24)}
RANK, COUNT = 4, 3
NAMES = [f"a{i}" for i in range(COUNT)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs) in WIDTHS.items():
            setattr(self, name, nn.Linear(inputs, outputs, bias=False))


def random_adapters(seed: int = 0) -> list[dict[str, LowRank]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        {
            name: LowRank(
                torch.randn(RANK, inputs, generator=generator),
                torch.randn(outputs, RANK, generator=generator),
                2.0,
            )
            for name, (inputs, outputs) in WIDTHS.items()
        }
        for _ in range(COUNT)
    ]


def load_in_peft(parents: list[dict[str, LowRank]]) -> Any:
    """A model of PEFT's that holds the adapters under NAMES."""
    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=list(WIDTHS))
    model = get_peft_model(Block(), config, NAMES[0])
    for name in NAMES[1 : len(parents)]:
        model.add_adapter(name, config)
    for name, weights in zip(NAMES, parents, strict=False):
        for path, low in weights.items():
            layer: Any = model.get_submodule(f"base_model.model.{path}")
            layer.lora_A[name].weight.data = low.a.clone()
            layer.lora_B[name].weight.data = low.b.clone()
    return model


def merge_in_peft(
    parents: list[dict[str, LowRank]], kind: str, weights: list[float], **options: object
) -> dict[str, Tensor]:
    """The dense updates of PEFT's merge."""
    model = load_in_peft(parents)
    model.add_weighted_adapter(NAMES[: len(parents)], weights, "m", combination_type=kind, **options)
    layers = {path: model.get_submodule(f"base_model.model.{path}") for path in WIDTHS}
    return {path: layer.get_delta_weight("m").detach() for path, layer in layers.items()}


def relative_error(actual: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, over all layers."""
    off = math.fsum(float((actual[p] - expected[p]).norm()) ** 2 for p in expected)
    return math.sqrt(off / math.fsum(float(e.norm()) ** 2 for e in expected.values()))


def dense_updates(weights: LoraWeights) -> dict[str, Tensor]:
    return {path: low.delta() for path, low in weights.items()}


def mean_update(parents: list[dict[str, LowRank]]) -> dict[str, Tensor]:
    return {path: torch.stack([p[path].delta() for p in parents]).mean(0) for path in WIDTHS}


def test_the_cut_average_equals_peft_svds_dense_one():
    parents = random_adapters()
    ours = merge(parents, AVERAGE, RANK)
    expected = merge_in_peft(parents, "svd", [1 / COUNT] * COUNT, svd_rank=RANK)
    assert relative_error(dense_updates(ours.weights), expected) <= 1e-5
    assert ours.relative_error == pytest.approx(relative_error(expected, mean_update(parents)), abs=1e-5)


def test_the_whole_average_equals_peft_cat():
    parents = random_adapters()
    expected = merge_in_peft(parents, "cat", [1 / COUNT] * COUNT)
    assert relative_error(dense_updates(merge(parents, AVERAGE).weights), expected) <= 1e-5


def test_ties_in_full_updates_equals_peft_ties_svd():
    parents = random_adapters()
    recipe = MergeRecipe(MergeStrategy.TIES, density=0.5, space=MergeSpace.DELTA)
    expected = merge_in_peft(parents, "ties_svd", [1.0] * COUNT, svd_rank=RANK, density=0.5)
    assert relative_error(dense_updates(merge(parents, recipe, RANK).weights), expected) <= 1e-4


def test_peft_linear_is_not_the_average():
    """Why nothing here adds factors up: A and B summed apart add cross terms."""
    parents = random_adapters()
    wrong = relative_error(merge_in_peft(parents, "linear", [1 / COUNT] * COUNT), mean_update(parents))
    assert wrong > 1.0
    assert relative_error(dense_updates(merge(parents, AVERAGE).weights), mean_update(parents)) <= 1e-5


@pytest.mark.parametrize(("kind", "factor"), [("linear", 2.0), ("ties", 0.5)])
def test_peft_changes_the_size_of_two_equal_adapters(kind: str, factor: float):
    """Twice the same adapter, averaged: twice it for `linear`, half of it for `ties`; itself here."""
    one = random_adapters()[0]
    options = {"density": 1.0} if kind == "ties" else {}
    scaled = {path: factor * delta for path, delta in dense_updates(one).items()}
    assert relative_error(merge_in_peft([one, one], kind, [0.5, 0.5], **options), scaled) <= 1e-5
    assert relative_error(dense_updates(merge([one, one], AVERAGE).weights), dense_updates(one)) <= 1e-5


def test_peft_linear_depends_on_how_an_update_is_factorised():
    """An adapter and its twin, the same function in other factors: their average must be the adapter."""
    one = random_adapters()[0]
    turn = torch.linalg.qr(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(1))).Q
    twin = {path: LowRank(turn.T @ low.a, low.b @ turn, low.scale) for path, low in one.items()}
    assert relative_error(merge_in_peft([one, twin], "linear", [0.5, 0.5]), dense_updates(one)) > 0.5
    assert relative_error(dense_updates(merge([one, twin], AVERAGE).weights), dense_updates(one)) <= 1e-5
