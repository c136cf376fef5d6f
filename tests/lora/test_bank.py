"""The bank: tokens reach their own adapter, in whatever company."""

import pytest
import torch
from torch import nn

from ouroboros.lora.bank import Bank, BankedAdapter, BankedLinear
from ouroboros.lora.route import Route, Segment
from ouroboros.lora.weights import LowRank

WIDTHS = {"first": (6, 5), "second": (5, 4)}


class Model(nn.Module):
    """Two linear layers in a row."""

    def __init__(self, bank: Bank) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = BankedLinear(nn.Linear(6, 5), "first", bank)
        self.second = BankedLinear(nn.Linear(5, 4), "second", bank)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def low_rank(seed: int, rank: int, paths: tuple[str, ...] = ("first", "second")) -> dict[str, LowRank]:
    chance = torch.Generator().manual_seed(seed)
    return {
        p: LowRank(
            torch.randn(rank, WIDTHS[p][0], generator=chance),
            torch.randn(WIDTHS[p][1], rank, generator=chance),
            scale=0.5 + seed,
        )
        for p in paths
    }


def dense(model: Model, weights: dict[str, LowRank], x: torch.Tensor) -> torch.Tensor:
    """The same function with the deltas added to the layers' own weights."""
    for name, banked in (("first", model.first), ("second", model.second)):
        layer = banked.layer
        assert isinstance(layer, nn.Linear)
        full = layer.weight + (weights[name].delta() if name in weights else 0)
        x = nn.functional.linear(x, full, layer.bias)
        x = torch.tanh(x) if name == "first" else x
    return x


@pytest.fixture
def bank() -> Bank:
    return Bank()


@pytest.fixture
def model(bank: Bank) -> Model:
    return Model(bank)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(4, 3, 6, generator=torch.Generator().manual_seed(9))


def everywhere(adapter: BankedAdapter) -> Route:
    """One adapter for all twelve tokens of `x`."""
    return Route.from_segments([Segment(adapter, 0, 12)])


def run(model: Model, bank: Bank, route: Route, x: torch.Tensor) -> torch.Tensor:
    with bank.use_route(route):
        return model(x)


def test_one_adapter_equals_its_dense_delta(model, bank, x):
    weights = low_rank(1, rank=2)
    out = run(model, bank, everywhere(BankedAdapter(weights)), x)
    torch.testing.assert_close(out, dense(model, weights, x), atol=1e-5, rtol=1e-5)


def test_segments_of_a_packed_row_each_get_their_adapter(model, bank, x):
    one, two = low_rank(1, 2), low_rank(2, 4)
    packed = x.reshape(1, 12, 6)
    route = Route.from_segments(
        [
            Segment(BankedAdapter(one), 0, 5),
            Segment(None, 5, 7),
            Segment(BankedAdapter(two), 7, 12),
        ]
    )
    out = run(model, bank, route, packed)[0]
    torch.testing.assert_close(out[:5], dense(model, one, packed[0, :5]), atol=1e-5, rtol=1e-5)
    assert torch.equal(out[5:7], model(packed)[0, 5:7])
    torch.testing.assert_close(out[7:], dense(model, two, packed[0, 7:]), atol=1e-5, rtol=1e-5)


def test_neighbouring_segments_of_one_adapter_are_joined():
    adapter = BankedAdapter(low_rank(1, 2))
    route = Route.from_segments([Segment(adapter, 0, 3), Segment(adapter, 3, 8)])
    assert route.segments == (Segment(adapter, 0, 8),)
    assert route.only_adapter is adapter


def test_outside_a_routed_call_the_model_is_the_base(model, bank, x):
    before = model(x)
    run(model, bank, everywhere(BankedAdapter(low_rank(1, 2))), x)
    assert torch.equal(model(x), before)


def test_gradients_equal_those_of_separate_factors(model, bank, x):
    weights = low_rank(1, 2)
    adapter = BankedAdapter(weights)
    with adapter.training() as grads:
        run(model, bank, everywhere(adapter), x).square().sum().backward()
        collected = grads.clone()
    leaves = {
        p: LowRank(w.a.clone().requires_grad_(), w.b.clone().requires_grad_(), w.scale)
        for p, w in weights.items()
    }
    dense(model, leaves, x).square().sum().backward()
    expected = torch.cat([t.flatten() for w in leaves.values() for t in (_grad(w.a), _grad(w.b).T)])
    torch.testing.assert_close(collected, expected, atol=1e-4, rtol=1e-4)


def _grad(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def test_only_the_adapters_in_the_batch_get_gradients(model, bank, x):
    here, elsewhere = BankedAdapter(low_rank(1, 2)), BankedAdapter(low_rank(2, 2))
    with here.training() as grads, elsewhere.training() as untouched:
        run(
            model, bank, Route.from_segments([Segment(here, 0, 12)]), x.reshape(1, 12, 6)
        ).sum().backward()
    assert grads.abs().sum() > 0
    assert untouched.abs().sum() == 0


def test_weights_read_back_are_those_written():
    weights = low_rank(5, 3)
    back = BankedAdapter(weights).weights()
    assert back.keys() == weights.keys()
    for path, low in weights.items():
        assert torch.equal(back[path].a, low.a)
        assert torch.equal(back[path].b, low.b)
        assert back[path].scale == low.scale


def test_layers_see_the_master_only_when_it_is_published(model, bank, x):
    adapter = BankedAdapter(low_rank(1, 2), dtype=torch.bfloat16)
    factors = adapter.factors("first")
    assert factors is not None
    a = factors[0]
    adapter.master.zero_()
    assert a.abs().sum() > 0
    adapter.publish()
    assert a.abs().sum() == 0
