"""Adapters that are alike share a product, and each gets what it would get alone."""

from collections.abc import Sequence
from contextlib import ExitStack

import pytest
import torch

from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.delta import BatchedLoraUpdate, LayerUpdate, LoraUpdate, find_trained_factor
from ouroboros.lora.route import SHARED_PRODUCT_TOKENS, Route, Segment
from ouroboros.lora.weights import LowRank

INPUTS, OUTPUTS = 7, 5


def adapter(seed: int, rank: int = 3, scale: float = 0.5) -> BankedAdapter:
    chance = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(*shape, generator=chance) for shape in ((rank, INPUTS), (OUTPUTS, rank)))
    return BankedAdapter({"layer": LowRank(a, b, scale)})


def route(*parts: tuple[BankedAdapter | None, int]) -> Route:
    """So many tokens of each adapter, one after the other."""
    segments, at = [], 0
    for owner, tokens in parts:
        segments.append(Segment(owner, at, at + tokens))
        at += tokens
    return Route.from_segments(segments)


def alone(way: Route) -> list[LoraUpdate]:
    """An update for each segment by itself."""
    return [
        LoraUpdate(slice(s.start, s.stop), factors, s.adapter.scale("layer"))
        for s in way.segments
        if s.adapter is not None and (factors := s.adapter.factors("layer")) is not None
    ]


def outcome(updates: Sequence[LayerUpdate], grads: Sequence[torch.Tensor], tokens: int):
    """What is put out, what comes back, and the adapters' gradients."""
    chance = torch.Generator().manual_seed(99)
    x, dy = (torch.randn(tokens, n, generator=chance) for n in (INPUTS, OUTPUTS))
    y, dx = torch.ones(tokens, OUTPUTS), torch.ones(tokens, INPUTS)
    saved = [u.apply(x, y) for u in updates]
    for update, own_saved in zip(updates, saved, strict=True):
        update.backward(own_saved, x, dy, dx)
    tensors = [y, dx, *(g.clone() for g in grads)]
    for grad in grads:
        grad.zero_()
    return tensors


A, B, C, ODD = adapter(0), adapter(1), adapter(2), adapter(3, rank=2)


@pytest.mark.parametrize(
    ("parts", "products"),
    [
        ([(A, 5), (B, 7), (C, 4)], 1),
        ([(None, 2), (A, 5), (None, 3), (B, 7)], 1),
        ([(A, 1), (B, 2), (A, 3), (None, 1), (B, 2), (A, 1)], 1),
        ([(A, 2), (None, 1), (A, 3)], 1),
        ([(A, 5), (ODD, 6), (B, 4)], 2),
        ([(A, 2), (B, 20)], 2),
        ([(A, SHARED_PRODUCT_TOKENS), (B, SHARED_PRODUCT_TOKENS + 1)], 2),
        ([(A, 5)], 1),
    ],
    ids=["neighbours", "with base", "scattered", "one", "ranks", "lengths", "long", "alone"],
)
def test_together_is_as_alone(parts, products):
    way = route(*parts)
    tokens = sum(n for _, n in parts)
    owners = list(dict.fromkeys(a for a, _ in parts if a is not None))
    with ExitStack() as stack:
        grads = [stack.enter_context(a.training()) for a in owners]
        updates = way.layer_updates("layer")
        assert len(updates) == products
        results, expected = outcome(updates, grads, tokens), outcome(alone(way), grads, tokens)
    for ours, theirs in zip(results, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_factors_that_rest_get_no_gradient():
    way = route((A, 5), (B, 6))
    with A.training({"layer": "a"}) as one, B.training({"layer": "a"}) as two:
        (update,) = way.layer_updates("layer")
        assert isinstance(update, BatchedLoraUpdate)
        factors = A.factors("layer")
        assert factors is not None
        assert find_trained_factor([update]) is factors[0]
        results = outcome([update], [one, two], 11)
        (_, b), (_, d) = A.split_by_layer(results[2])["layer"], B.split_by_layer(results[3])["layer"]
    assert results[2].any()
    assert results[3].any()
    assert not b.any()
    assert not d.any()


def test_who_moves_other_factors_has_a_product_of_its_own():
    way = route((A, 5), (B, 6))
    with A.training({"layer": "a"}), B.training():
        assert len(way.layer_updates("layer")) == 2


def test_nobody_trains_where_nothing_wants_a_gradient():
    assert find_trained_factor(route((A, 5), (B, 6)).layer_updates("layer")) is None
    assert route((None, 4)).layer_updates("layer") == []
