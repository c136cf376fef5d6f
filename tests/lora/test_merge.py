"""Merging: algebra that holds for any adapters, and refusals."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ouroboros.domain.errors import InvalidAdapter, InvalidConfig
from ouroboros.domain.merging import MergeRecipe, MergeSpace, MergeStrategy
from ouroboros.lora.merge import merge
from ouroboros.lora.merge_rules import RULES, apply_rule
from ouroboros.lora.weights import LoraWeights, LowRank

AVERAGE = MergeRecipe(MergeStrategy.AVERAGE)

PATHS = ("h.0.q", "h.0.v", "h.1.q")
WIDTHS = {"h.0.q": (12, 9), "h.0.v": (6, 14), "h.1.q": (12, 9)}
TOLERANCE = 1e-5

seeds = st.integers(0, 2**31)
counts = st.integers(2, 4)
coefficients = st.floats(-3, 3).map(lambda x: round(x, 3))
strategies = st.sampled_from(list(MergeStrategy))
spaces = st.sampled_from(list(MergeSpace))


THOUSAND_CASES: dict[str, Callable[[], None]] = {}
"""Every property again, with a thousand cases."""


def property_test(*drawn: st.SearchStrategy) -> Callable[[Callable], Callable]:
    """A property of what is drawn: a hundred cases now, a thousand in the slow run."""

    def decorate(function: Callable) -> Callable:
        THOUSAND_CASES[function.__name__] = settings(max_examples=1000, deadline=None)(
            given(*drawn)(function)
        )
        return settings(max_examples=100, deadline=None)(given(*drawn)(function))

    return decorate


def random_adapters(seed: int, count: int) -> list[LoraWeights]:
    """Random adapters that differ in rank, scale and layers."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    adapters_drawn = []
    for _ in range(count):
        paths = [p for p in PATHS if draw(0, 3)] or [PATHS[0]]
        rank = draw(1, 4)
        adapters_drawn.append({p: _random_layer(WIDTHS[p], rank, 2.0 / rank, generator) for p in paths})
    return adapters_drawn


def _random_layer(
    widths: tuple[int, int], rank: int, scale: float, generator: torch.Generator
) -> LowRank:
    a = torch.randn(rank, widths[0], generator=generator)
    return LowRank(a, torch.randn(widths[1], rank, generator=generator), scale)


def refactorise(weights: LoraWeights, seed: int) -> LoraWeights:
    """The same updates, factorised otherwise: B G and inverse(G) A."""
    generator = torch.Generator().manual_seed(seed)
    refactored = {}
    for path, low in weights.items():
        g = torch.linalg.qr(torch.randn(low.rank, low.rank, generator=generator)).Q * 1.5
        refactored[path] = LowRank(torch.linalg.inv(g) @ low.a, low.b @ g, low.scale)
    return refactored


def dense_update(weights: LoraWeights, path: str) -> Tensor:
    inputs, outputs = WIDTHS[path]
    return weights[path].delta() if path in weights else torch.zeros(outputs, inputs)


def assert_updates_equal(actual: LoraWeights, expected: dict[str, Tensor], size: float = 1.0) -> None:
    """Equal updates, to TOLERANCE of the size of what was added up."""
    for path, delta in expected.items():
        assert float((dense_update(actual, path) - delta).norm()) <= TOLERANCE * max(
            size, float(delta.norm())
        )


def weighted_sum(parents: Sequence[LoraWeights], weights: Sequence[float]) -> dict[str, Tensor]:
    return {
        p: sum((w * dense_update(q, p) for w, q in zip(weights, parents, strict=True)), torch.zeros(()))
        for p in PATHS
    }


def total_norm(parents: Sequence[LoraWeights]) -> float:
    return math.fsum(float(low.delta().norm()) for p in parents for low in p.values())


@property_test(seeds, st.lists(coefficients, min_size=2, max_size=4))
def test_task_arithmetic_is_the_dense_sum(seed: int, weights: list[float]):
    if not any(weights):
        weights[0] = 1.0
    parents = random_adapters(seed, len(weights))
    recipe = MergeRecipe(MergeStrategy.TASK_ARITHMETIC, tuple(weights))
    outcome = merge(parents, recipe)
    assert_updates_equal(outcome.weights, weighted_sum(parents, weights), total_norm(parents))
    assert outcome.relative_error <= TOLERANCE


@property_test(seeds, counts)
def test_an_average_is_the_dense_mean(seed: int, count: int):
    parents = random_adapters(seed, count)
    expected = weighted_sum(parents, [1 / count] * count)
    assert_updates_equal(merge(parents, AVERAGE).weights, expected, total_norm(parents))


@property_test(seeds, counts, strategies, spaces)
def test_copies_of_one_adapter_merge_into_it(
    seed: int, count: int, strategy: MergeStrategy, space: MergeSpace
):
    """Idempotence, for every strategy that keeps all entries; arithmetic's weights add up to one."""
    (one,) = random_adapters(seed, 1)
    alone = strategy in (MergeStrategy.AVERAGE, MergeStrategy.TSV)
    weights = None if alone else tuple([1 / count] * count)
    recipe = MergeRecipe(strategy, weights, density=1.0, space=space)
    outcome = merge([one] * count, recipe)
    assert_updates_equal(outcome.weights, {p: dense_update(one, p) for p in PATHS}, total_norm([one]))


@property_test(seeds, st.sampled_from([MergeStrategy.WEIGHTED, MergeStrategy.TASK_ARITHMETIC]))
def test_weight_one_and_zero_is_the_first_adapter(seed: int, strategy: MergeStrategy):
    """Identity."""
    parents = random_adapters(seed, 2)
    outcome = merge(parents, MergeRecipe(strategy, (1.0, 0.0)))
    assert_updates_equal(
        outcome.weights, {p: dense_update(parents[0], p) for p in PATHS}, total_norm(parents)
    )


_ORDER_INDEPENDENT = [s for s in MergeStrategy if s not in (MergeStrategy.DARE, MergeStrategy.DARE_TIES)]


@property_test(seeds, st.permutations(range(3)), st.sampled_from(_ORDER_INDEPENDENT))
def test_order_does_not_matter(seed: int, order: list[int], strategy: MergeStrategy):
    """But for DARE, whose dice fall for one adapter after the other."""
    parents, weights = random_adapters(seed, 3), (0.5, 1.0, 2.0)
    plain = None if strategy is MergeStrategy.AVERAGE else weights
    mixed = None if strategy is MergeStrategy.AVERAGE else tuple(weights[i] for i in order)
    recipe = MergeRecipe(strategy, plain, density=1.0, space=MergeSpace.DELTA)
    one = merge(parents, recipe, 9)
    other = merge([parents[i] for i in order], replace(recipe, weights=mixed), 9)
    assert_updates_equal(
        other.weights, {p: dense_update(one.weights, p) for p in PATHS}, total_norm(parents)
    )


@property_test(seeds, seeds, counts, st.sampled_from([s for s in MergeStrategy if not s.is_entrywise]))
def test_how_an_update_is_factorised_does_not_matter(
    seed: int, turn: int, count: int, strategy: MergeStrategy
):
    parents = random_adapters(seed, count)
    weights = None if strategy is MergeStrategy.AVERAGE else tuple(range(1, count + 1))
    recipe = MergeRecipe(strategy, weights)
    one = merge(parents, recipe)
    other = merge([refactorise(p, turn + i) for i, p in enumerate(parents)], recipe)
    assert_updates_equal(
        other.weights, {p: dense_update(one.weights, p) for p in PATHS}, total_norm(parents)
    )


@property_test(seeds, coefficients.filter(bool))
def test_arithmetic_is_linear(seed: int, factor: float):
    parents = random_adapters(seed, 3)
    recipe = MergeRecipe(MergeStrategy.TASK_ARITHMETIC, (1.0, -0.5, 2.0))
    one = merge(parents, recipe)
    scaled = merge(parents, replace(recipe, scale=factor))
    expected = {p: factor * dense_update(one.weights, p) for p in PATHS}
    assert_updates_equal(scaled.weights, expected, abs(factor) * total_norm(parents))


@property_test(seeds, counts, strategies, st.sampled_from([0.2, 0.5, 1.0]))
def test_strategies_on_entries_equal_the_table_on_dense_updates(
    seed: int, count: int, strategy: MergeStrategy, density: float
):
    """Without a cut in rank, the result is the rule itself."""
    parents = random_adapters(seed, count)
    weights = None if strategy is MergeStrategy.AVERAGE else tuple([1.0] * count)
    if strategy in (MergeStrategy.DARE, MergeStrategy.DARE_TIES):
        density = 1.0  # what the dice decide is tested where the dice are known
    outcome = merge(parents, MergeRecipe(strategy, weights, density), 9)
    for path in {p for parent in parents for p in parent}:
        stack = torch.stack([dense_update(parent, path) for parent in parents])
        expected = apply_rule(RULES[strategy], stack, torch.ones(count), density, torch.Generator())
        assert_updates_equal(outcome.weights, {path: expected}, total_norm(parents))


@property_test(seeds, counts, st.integers(1, 4))
def test_a_cut_to_a_rank_is_the_best_there_is(seed: int, count: int, rank: int):
    """Eckart and Young: no matrix of that rank is nearer than the leading singular vectors'."""
    parents = random_adapters(seed, count)
    outcome = merge(parents, AVERAGE, rank)
    mean = weighted_sum(parents, [1 / count] * count)
    singular = {p: torch.linalg.svdvals(mean[p].double()) for p in PATHS}
    whole = math.sqrt(math.fsum(float(s.norm()) ** 2 for s in singular.values()))
    best = math.sqrt(math.fsum(float(s[rank:].norm()) ** 2 for s in singular.values())) / whole
    error = math.sqrt(
        math.fsum(float((mean[p] - dense_update(outcome.weights, p)).norm()) ** 2 for p in PATHS)
    )
    assert outcome.relative_error == pytest.approx(best, abs=TOLERANCE)
    assert error / whole == pytest.approx(best, abs=TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("name", THOUSAND_CASES)
def test_a_thousand_cases_of(name: str):
    THOUSAND_CASES[name]()


def test_the_lossless_rank_is_where_nothing_is_lost():
    parents = random_adapters(3, 3)
    whole = merge(parents, AVERAGE)
    assert max(low.rank for low in whole.weights.values()) == whole.lossless_rank
    assert merge(parents, AVERAGE, whole.lossless_rank).relative_error <= TOLERANCE
    assert merge(parents, AVERAGE, whole.lossless_rank - 1).relative_error > 1e-3


def test_twins_need_no_more_rank_than_one():
    (one,) = random_adapters(5, 1)
    assert merge([one, refactorise(one, 1)], AVERAGE).lossless_rank == max(
        low.rank for low in one.values()
    )


def test_an_adapter_minus_itself_is_nothing():
    (one,) = random_adapters(0, 1)
    outcome = merge([one, one], MergeRecipe(MergeStrategy.TASK_ARITHMETIC, (1.0, -1.0)))
    assert all(float(low.delta().norm()) < 1e-5 for low in outcome.weights.values())


@pytest.mark.parametrize("strategy", [MergeStrategy.TIES, MergeStrategy.MAGNITUDE])
def test_core_space_does_not_depend_on_factors_or_order(strategy: MergeStrategy):
    parents = random_adapters(11, 3)
    recipe = MergeRecipe(strategy, density=0.4, space=MergeSpace.CORE)
    one = merge(parents, recipe)
    other = merge([refactorise(p, i) for i, p in enumerate(reversed(parents))], recipe)
    expected = {p: dense_update(one.weights, p) for p in one.weights}
    for path, delta in expected.items():
        assert float((dense_update(other.weights, path) - delta).norm()) <= 1e-4 * float(delta.norm())


def test_dare_is_decided_by_its_seed():
    parents = random_adapters(0, 2)
    recipe = MergeRecipe(MergeStrategy.DARE, density=0.5, seed=1)
    one, same = merge(parents, recipe), merge(parents, recipe)
    other = merge(parents, replace(recipe, seed=2))
    assert all(torch.equal(one.weights[p].b, same.weights[p].b) for p in one.weights)
    assert any(not torch.equal(one.weights[p].b, other.weights[p].b) for p in one.weights)


def test_one_adapter_is_nothing_to_merge():
    with pytest.raises(InvalidConfig, match="1 adapters"):
        merge(random_adapters(0, 1), AVERAGE)


@pytest.mark.parametrize("rank", [0, -1])
def test_rank_below_one_is_refused(rank: int):
    with pytest.raises(InvalidConfig, match="rank"):
        merge(random_adapters(0, 2), AVERAGE, rank)


def test_nan_is_refused_by_name():
    parents = random_adapters(0, 2)
    path = next(iter(parents[1]))
    parents[1][path].a[0, 0] = math.nan
    with pytest.raises(InvalidAdapter, match=f"{path} holds NaN"):
        merge(parents, AVERAGE)


def test_other_widths_are_refused():
    generator = torch.Generator().manual_seed(0)
    parents = [{"q": _random_layer((w, 4), 2, 1.0, generator)} for w in (4, 5)]
    with pytest.raises(InvalidAdapter, match="different widths"):
        merge(parents, AVERAGE)
