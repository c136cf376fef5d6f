"""Recipes are checked before anything is merged."""

import math

import pytest

from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.merging import MergeRecipe, MergeStrategy

ARITHMETIC = MergeStrategy.TASK_ARITHMETIC


@pytest.mark.parametrize("strategy", list(MergeStrategy))
def test_every_strategy_has_a_sound_recipe(strategy: MergeStrategy):
    weights = (1.0, 2.0) if strategy is MergeStrategy.WEIGHTED else None
    recipe = MergeRecipe(strategy, weights)
    assert recipe.validate().ok
    assert recipe.resolve_weights(2) == (weights or (1.0, 1.0))


@pytest.mark.parametrize(
    "recipe",
    [
        MergeRecipe("average"),  # type: ignore[arg-type]
        MergeRecipe(space="core"),  # type: ignore[arg-type]
        MergeRecipe(MergeStrategy.AVERAGE, weights=(1.0, 1.0)),
        MergeRecipe(MergeStrategy.WEIGHTED),
        MergeRecipe(MergeStrategy.WEIGHTED, (1.0, -1.0)),
        MergeRecipe(ARITHMETIC, (0.0, 0.0)),
        MergeRecipe(ARITHMETIC, ()),
        MergeRecipe(ARITHMETIC, (1.0, math.nan)),
        MergeRecipe(ARITHMETIC, (1.0, math.inf)),
        MergeRecipe(ARITHMETIC, (1.0, 1e9)),
        MergeRecipe(density=0.0),
        MergeRecipe(density=1.1),
        MergeRecipe(density=math.nan),
        MergeRecipe(scale=0.0),
        MergeRecipe(scale=math.inf),
        MergeRecipe(seed=-1),
    ],
)
def test_senseless_recipes_are_refused(recipe: MergeRecipe):
    assert not recipe.validate().ok


def test_one_weight_per_adapter():
    recipe = MergeRecipe(ARITHMETIC, (1.0, -1.0))
    assert recipe.resolve_weights(2) == (1.0, -1.0)
    with pytest.raises(InvalidConfig, match="2 weights for 3"):
        recipe.resolve_weights(3)


@pytest.mark.parametrize("parents", [0, 1])
def test_fewer_than_two_adapters_are_refused(parents: int):
    with pytest.raises(InvalidConfig, match="two"):
        MergeRecipe().resolve_weights(parents)
