"""Common bases and best approximations."""

import pytest
import torch

from ouroboros.lora.lowrank import approximate_to_rank, core_space, factorise_to_rank
from ouroboros.lora.weights import LowRank


def seeded_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_update(rank: int, seed: int, inputs: int = 20, outputs: int = 12) -> LowRank:
    a = torch.randn(rank, inputs, generator=seeded_generator(seed))
    return LowRank(a, torch.randn(outputs, rank, generator=seeded_generator(seed + 100)), 0.5)


def test_cores_in_their_bases_are_the_updates():
    layer = [random_update(3, 0), None, random_update(5, 1)]
    space = core_space(layer)
    assert space.cores.shape == (3, 8, 8)
    for core, low in zip(space.cores, layer, strict=True):
        restored = space.left_basis @ core.float() @ space.right_basis.T
        expected = torch.zeros(12, 20) if low is None else low.delta()
        torch.testing.assert_close(restored, expected, atol=1e-5, rtol=1e-5)


def test_bases_are_no_wider_than_the_layer():
    space = core_space([random_update(4, i, inputs=6, outputs=5) for i in range(3)])
    assert space.cores.shape == (3, 5, 6)


def test_an_update_of_nothing_keeps_rank_one():
    space = core_space([random_update(2, 0)])
    result = factorise_to_rank(space, torch.zeros_like(space.cores[0]), None)
    assert (result.low.rank, result.norm, result.error_norm) == (1, 0.0, 0.0)
    assert not result.low.delta().any()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (6, 300), (300, 6)])
def test_a_dense_update_is_cut_as_a_full_decomposition_cuts_it(shape: tuple[int, int]):
    """On noise, whose singular values hardly fall: the hardest case for a few products."""
    dense = torch.randn(*shape, generator=seeded_generator())
    result = approximate_to_rank(dense, 8, seeded_generator(1))
    singular = torch.linalg.svdvals(dense.double())
    best = float(singular[8:].norm())
    assert result.error_norm == pytest.approx(best, rel=2e-3, abs=1e-3)
