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

pytestmark = pytest.mark.filterwarnings("ignore")

WIDTHS = {"up": (24, 40), "down": (40, 24)}
RANK, COUNT = 4, 3
NAMES = [f"a{i}" for i in range(COUNT)]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name, (inputs, outputs) in WIDTHS.items():
            setattr(self, name, nn.Linear(inputs, outputs, bias=False))


def adapters(seed: int = 0) -> list[dict[str, LowRank]]:
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


def in_peft(parents: list[dict[str, LowRank]]) -> Any:
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


def theirs(
    parents: list[dict[str, LowRank]], kind: str, weights: list[float], **options: object
) -> dict[str, Tensor]:
    """The dense updates of PEFT's merge."""
    model = in_peft(parents)
    model.add_weighted_adapter(NAMES[: len(parents)], weights, "m", combination_type=kind, **options)
    layers = {path: model.get_submodule(f"base_model.model.{path}") for path in WIDTHS}
    return {path: layer.get_delta_weight("m").detach() for path, layer in layers.items()}


def error(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm of what is expected, over all layers."""
    off = math.fsum(float((found[p] - expected[p]).norm()) ** 2 for p in expected)
    return math.sqrt(off / math.fsum(float(e.norm()) ** 2 for e in expected.values()))


def dense(weights: LoraWeights) -> dict[str, Tensor]:
    return {path: low.delta() for path, low in weights.items()}


def mean(parents: list[dict[str, LowRank]]) -> dict[str, Tensor]:
    return {path: torch.stack([p[path].delta() for p in parents]).mean(0) for path in WIDTHS}


def test_the_cut_average_equals_peft_svds_dense_one():
    parents = adapters()
    ours = merge(parents, MergeRecipe(), RANK)
    expected = theirs(parents, "svd", [1 / COUNT] * COUNT, svd_rank=RANK)
    assert error(dense(ours.weights), expected) <= 1e-5
    assert ours.relative_error == pytest.approx(error(expected, mean(parents)), abs=1e-5)


def test_the_whole_average_equals_peft_cat():
    parents = adapters()
    expected = theirs(parents, "cat", [1 / COUNT] * COUNT)
    assert error(dense(merge(parents, MergeRecipe()).weights), expected) <= 1e-5


def test_ties_in_full_updates_equals_peft_ties_svd():
    parents = adapters()
    recipe = MergeRecipe(MergeStrategy.TIES, density=0.5, space=MergeSpace.DELTA)
    expected = theirs(parents, "ties_svd", [1.0] * COUNT, svd_rank=RANK, density=0.5)
    assert error(dense(merge(parents, recipe, RANK).weights), expected) <= 1e-4


def test_peft_linear_is_not_the_average():
    """Why nothing here adds factors up: A and B summed apart add cross terms."""
    parents = adapters()
    wrong = error(theirs(parents, "linear", [1 / COUNT] * COUNT), mean(parents))
    assert wrong > 1.0
    assert error(dense(merge(parents, MergeRecipe()).weights), mean(parents)) <= 1e-5


@pytest.mark.parametrize(("kind", "factor"), [("linear", 2.0), ("ties", 0.5)])
def test_peft_changes_the_size_of_two_equal_adapters(kind: str, factor: float):
    """Twice the same adapter, averaged: twice it for `linear`, half of it for `ties`; itself here."""
    one = adapters()[0]
    options = {"density": 1.0} if kind == "ties" else {}
    scaled = {path: factor * delta for path, delta in dense(one).items()}
    assert error(theirs([one, one], kind, [0.5, 0.5], **options), scaled) <= 1e-5
    assert error(dense(merge([one, one], MergeRecipe()).weights), dense(one)) <= 1e-5


def test_peft_linear_depends_on_how_an_update_is_factorised():
    """An adapter and its twin, the same function in other factors: their average must be the adapter."""
    one = adapters()[0]
    turn = torch.linalg.qr(torch.randn(RANK, RANK, generator=torch.Generator().manual_seed(1))).Q
    twin = {path: LowRank(turn.T @ low.a, low.b @ turn, low.scale) for path, low in one.items()}
    assert error(theirs([one, twin], "linear", [0.5, 0.5]), dense(one)) > 0.5
    assert error(dense(merge([one, twin], MergeRecipe()).weights), dense(one)) <= 1e-5
