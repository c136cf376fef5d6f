"""The table's pieces, on stacks small enough to check by hand."""

import pytest
import torch
from torch import Tensor

from ouroboros.domain.merging import MergeStrategy
from ouroboros.lora.merge_rules import RULES, apply_rule, drop_random, keep_largest, orthogonalise


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def merge_entries(strategy: MergeStrategy, stack: Tensor, density: float = 1.0) -> list[float]:
    weights = torch.ones(len(stack))
    return apply_rule(RULES[strategy], stack, weights, density, seeded_generator()).flatten().tolist()


def stack(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32)[:, None, :]


def test_every_strategy_has_a_rule():
    assert RULES.keys() == set(MergeStrategy)


def test_the_largest_entries_stay():
    entries = stack([1, -4, 3, 2], [0.1, 0.2, 0.3, -0.4])
    sparse = keep_largest(entries, 0.5, seeded_generator())(entries)
    assert torch.equal(sparse, stack([0, -4, 3, 0], [0, 0, 0.3, -0.4]))


def test_at_least_one_entry_stays():
    entries = stack([1, 2, 3])
    assert keep_largest(entries, 0.001, seeded_generator())(entries).count_nonzero() == 1


def test_dropping_at_random_keeps_the_mean():
    entries = torch.ones(1, 100, 100)
    thinned = drop_random(entries, 0.25, seeded_generator())(entries)
    assert set(thinned.unique().tolist()) == {0.0, 4.0}
    assert float(thinned.mean()) == pytest.approx(1.0, abs=0.05)


def test_ties_averages_the_entries_with_the_majoritys_sign():
    """Column by column: all agree; two against one; the larger mass wins; nothing there."""
    entries = stack([3, 1, 9, 0], [1, 2, -1, 0], [2, -1, -2, 0])
    assert merge_entries(MergeStrategy.TIES, entries) == [2.0, 1.5, 9.0, 0.0]


def test_ties_does_not_count_entries_that_were_trimmed():
    assert merge_entries(MergeStrategy.TIES, stack([4, 1], [1, 4]), density=0.5) == [4.0, 4.0]


def test_magnitude_divides_by_all_parents():
    assert merge_entries(MergeStrategy.MAGNITUDE, stack([4, 1], [1, 4]), density=0.5) == [2.0, 2.0]


def test_weights_are_signed_in_the_vote():
    """Subtracting an adapter turns its entries round before the vote."""
    entries, weights = stack([2, 2], [2, -2]), torch.tensor([1.0, -1.0])
    result = apply_rule(RULES[MergeStrategy.TIES], entries, weights, 1.0, seeded_generator())
    assert result.flatten().tolist() == [0.0, 2.0]


def test_rows_beyond_one_block_are_merged_too():
    entries = torch.randn(3, 200, 5, generator=seeded_generator())
    assert merge_entries(MergeStrategy.AVERAGE, entries) == pytest.approx(
        entries.mean(0).flatten().tolist()
    )


def test_parents_that_are_out_of_each_others_way_stay_as_they_are():
    parts = [torch.zeros(4, 4), torch.zeros(4, 4)]
    parts[0][0, 1], parts[1][2, 3] = 3.0, 2.0
    entries = torch.stack(parts)
    assert torch.allclose(orthogonalise(entries), entries)


def test_directions_that_two_parents_share_in_part_are_turned_apart():
    """Their values stay, and neither acts on what the other reads or writes where the other does."""
    one, other = torch.tensor([1.0, 0, 0]), torch.tensor([0.6, 0.8, 0])
    result = orthogonalise(torch.stack([torch.outer(one, one) * 2, torch.outer(other, other) * 3]))
    assert torch.linalg.svdvals(result)[:, 0].tolist() == pytest.approx([2.0, 3.0])
    assert float((result[0] @ result[1]).abs().max()) < 1e-6
    assert float((result[0].T @ result[1]).abs().max()) < 1e-6


def test_a_parent_that_does_nothing_is_nothing():
    assert not orthogonalise(torch.zeros(2, 3, 3)).any()
