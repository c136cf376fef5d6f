"""Slots: rows come and go, and each is answered by its own adapter all the while."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ouroboros.lora.bank import BankedAdapter
from ouroboros.lora.slots import Slots
from ouroboros.lora.weights import LowRank

WIDTHS = {"first": (6, 5), "second": (5, 4)}
SHAPES = ((1, ("first", "second")), (3, ("first",)), (2, ("second",)), (2, ("first", "second")))


def low_rank(seed: int, rank: int, paths: tuple[str, ...]) -> dict[str, LowRank]:
    chance = torch.Generator().manual_seed(seed)
    return {
        p: LowRank(
            torch.randn(rank, WIDTHS[p][0], generator=chance),
            torch.randn(WIDTHS[p][1], rank, generator=chance),
            scale=0.5 + seed,
        )
        for p in paths
    }


WEIGHTS = [low_rank(seed, *shape) for seed, shape in enumerate(SHAPES)]
ADAPTERS = [BankedAdapter(weights) for weights in WEIGHTS]
ROW = st.sampled_from([None, 0, 1, 2, 3])


def check(slots: Slots, rows: list[int | None]) -> None:
    """Every row gets what its adapter's dense delta gives, the base's rows get nothing."""
    slots.assign_rows([None if r is None else ADAPTERS[r] for r in rows])
    for path, (inputs, outputs) in WIDTHS.items():
        x, y = torch.randn(len(rows), 1, inputs), torch.randn(len(rows), 1, outputs)
        actual = slots.adapt(path, x, y)
        for i, row in enumerate(rows):
            delta = WEIGHTS[row].get(path) if row is not None else None
            expected = y[i] if delta is None else y[i] + x[i] @ delta.delta().T
            torch.testing.assert_close(actual[i], expected, atol=1e-5, rtol=1e-5)


@settings(deadline=None)
@given(st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=5))
def test_whatever_rows_come_and_go_each_has_its_own_adapter(batches):
    slots = Slots()
    for rows in batches:
        check(slots, rows)
        assert len(slots) == len({r for r in rows if r is not None})


def test_an_adapter_that_stays_is_not_copied_again(monkeypatch):
    slots = Slots()
    slots.assign_rows([ADAPTERS[0], ADAPTERS[1], None])
    copied = []
    copy = Slots._write_adapter
    monkeypatch.setattr(
        Slots, "_write_adapter", lambda self, a, *where: (copied.append(a), copy(self, a, *where))
    )
    slots.assign_rows([ADAPTERS[1], ADAPTERS[0], ADAPTERS[0]])
    assert not copied
    slots.assign_rows([ADAPTERS[3], ADAPTERS[0]])
    assert copied == [ADAPTERS[3]]


@pytest.mark.parametrize("rows", [[0, 1, 2], [0, 0, 1], [None, 0, 0]])
def test_a_row_that_is_not_finite_spoils_no_other(rows):
    slots = Slots()
    slots.assign_rows([None if r is None else ADAPTERS[r] for r in rows])
    x, y = torch.randn(3, 1, 6), torch.randn(3, 1, 5)
    x[1] = float("nan")
    out = slots.adapt("first", x, y)
    assert out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_row_has_the_same_bits_in_any_company(dtype):
    adapters = [BankedAdapter(weights, dtype) for weights in WEIGHTS]
    x, y = torch.randn(6, 1, 6).to(dtype), torch.randn(6, 1, 5).to(dtype)
    rows = [adapters[0], None, adapters[3], adapters[1], adapters[0], None]
    slots, alone = Slots(), Slots()
    slots.assign_rows(rows)
    together = slots.adapt("first", x, y)
    for i, row in enumerate(rows):
        alone.assign_rows([row])
        assert torch.equal(alone.adapt("first", x[i : i + 1], y[i : i + 1])[0], together[i])


@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [0, 1, 2, 3, None, 0]], ids=str)
def test_a_layer_takes_two_operations_however_many_adapters_there_are(rows, monkeypatch):
    """Fails when adapters are multiplied one after the other again, whatever comes out."""
    calls = []
    sums = torch.embedding_bag
    monkeypatch.setattr(torch, "embedding_bag", lambda *a, **b: (calls.append(1), sums(*a, **b))[1])
    slots = Slots()
    slots.assign_rows([None if r is None else ADAPTERS[r] for r in rows])
    slots.adapt("first", torch.randn(len(rows), 1, 6), torch.randn(len(rows), 1, 5))
    assert len(calls) == 2
