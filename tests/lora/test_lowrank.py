"""Common bases and best approximations."""

import pytest
import torch

from ouroboros.lora.lowrank import best_rank, core_space, factorise
from ouroboros.lora.weights import LowRank


def dice(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def update(rank: int, seed: int, inputs: int = 20, outputs: int = 12) -> LowRank:
    a = torch.randn(rank, inputs, generator=dice(seed))
    return LowRank(a, torch.randn(outputs, rank, generator=dice(seed + 100)), 0.5)


def test_cores_in_their_bases_are_the_updates():
    layer = [update(3, 0), None, update(5, 1)]
    space = core_space(layer)
    assert space.cores.shape == (3, 8, 8)
    for core, low in zip(space.cores, layer, strict=True):
        found = space.left @ core.float() @ space.right.T
        expected = torch.zeros(12, 20) if low is None else low.delta()
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_bases_are_no_wider_than_the_layer():
    space = core_space([update(4, i, inputs=6, outputs=5) for i in range(3)])
    assert space.cores.shape == (3, 5, 6)


def test_an_update_of_nothing_keeps_rank_one():
    space = core_space([update(2, 0)])
    found = factorise(space, torch.zeros_like(space.cores[0]), None)
    assert (found.low.rank, found.norm, found.lost) == (1, 0.0, 0.0)
    assert not found.low.delta().any()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (6, 300), (300, 6)])
def test_a_dense_update_is_cut_as_a_full_decomposition_cuts_it(shape: tuple[int, int]):
    """On noise, whose singular values hardly fall: the hardest case for a few products."""
    dense = torch.randn(*shape, generator=dice())
    found = best_rank(dense, 8, dice(1))
    singular = torch.linalg.svdvals(dense.double())
    best = float(singular[8:].norm())
    assert found.lost == pytest.approx(best, rel=2e-3, abs=1e-3)
