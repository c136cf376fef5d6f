import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ouroboros.backend.local.training.losses import (
    LOSSES,
    StepBatch,
    compute_coefficients,
    compute_step_loss,
    estimate_kl,
)
from ouroboros.domain.data import Row
from ouroboros.domain.losses import DPO, KTO, APOZero, Distillation, Loss, Supervised, Unlikelihood

ROWS = {
    "supervised": Row("p", "good", weight=2.0),
    "pair": Row("p", "good", DPO(), rejected="bad"),
    "wanted": Row("p", "good", APOZero(), weight=0.5),
    "unwanted": Row("p", None, APOZero(), rejected="bad"),
    "kto": Row("p", None, KTO(), rejected="bad"),
    "unlikely": Row("p", None, Unlikelihood(), rejected="bad"),
}


def _lengths(rows: Sequence[Row]) -> list[int]:
    """Different numbers of tokens for the sequences, so that averages over tokens and rows differ."""
    return [2 + 3 * i % 7 for i in range(sum(len(row.outputs) for row in rows))]


def _batch(rows: Sequence[Row], logprobs: Tensor, lengths: Sequence[int], weights: Sequence[float]):
    return StepBatch(
        rows=rows,
        coefficients=weights,
        logprobs=logprobs,
        owner=torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)),
        reference=torch.linspace(-9, -2, len(lengths)),
        kl=0.3,
    )


def _weights(rows: Sequence[Row], lengths: Sequence[int]) -> list[float]:
    first, tokens = 0, []
    for row in rows:
        tokens.append(lengths[first])
        first += len(row.outputs)
    return compute_coefficients(rows, tokens)


def _one(row: Row, logprobs: Tensor, reference: float = -3.0) -> Tensor:
    """The loss of a row alone in its step, with a single output."""
    owner = torch.zeros(len(logprobs), dtype=torch.long)
    return compute_step_loss(StepBatch([row], [1.0], logprobs, owner, torch.tensor([reference])))


@settings(max_examples=50, deadline=None)
@given(names=st.lists(st.sampled_from(sorted(ROWS)), min_size=2, max_size=8), data=st.data())
def test_a_step_may_be_cut_anywhere_between_rows(names: list[str], data: st.DataObject) -> None:
    rows = [ROWS[name] for name in names]
    lengths = _lengths(rows)
    weights = _weights(rows, lengths)
    logprobs = torch.linspace(-2, -0.1, sum(lengths)).requires_grad_()
    whole = compute_step_loss(_batch(rows, logprobs, lengths, weights))
    (expected,) = torch.autograd.grad(whole, logprobs)

    cut = data.draw(st.integers(1, len(rows) - 1))
    sequences = sum(len(row.outputs) for row in rows[:cut])
    tokens = sum(lengths[:sequences])
    reference = torch.linspace(-9, -2, len(lengths))
    front = _batch(rows[:cut], logprobs[:tokens], lengths[:sequences], weights[:cut])
    back = _batch(rows[cut:], logprobs[tokens:], lengths[sequences:], weights[cut:])
    parts = compute_step_loss(replace(front, reference=reference[:sequences])) + compute_step_loss(
        replace(back, reference=reference[sequences:])
    )
    (gradient,) = torch.autograd.grad(parts, logprobs)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(gradient, expected)


def test_supervised_rows_are_averaged_over_weighted_tokens() -> None:
    rows = [Row("p", "a", weight=2.0), Row("p", "b")]
    logprobs = torch.tensor([-1.0, -2.0, -4.0])
    loss = compute_step_loss(_batch(rows, logprobs, [1, 2], compute_coefficients(rows, [1, 2])))
    assert float(loss) == pytest.approx((2 * 1.0 + 2.0 + 4.0) / (2 * 1 + 2))


def test_losses_in_one_step_share_it_by_rows() -> None:
    mixed = [ROWS["supervised"], ROWS["unwanted"], ROWS["unwanted"], ROWS["kto"]]
    tokens = [3, 4, 5, 6]
    coefficients = compute_coefficients(mixed, tokens)
    assert coefficients[0] * tokens[0] == pytest.approx(1 / 4)
    assert coefficients[1] == coefficients[2] == coefficients[3] == pytest.approx(1 / 4)


def test_a_weight_scales_a_judgement_that_is_alone_in_its_step() -> None:
    assert compute_coefficients([ROWS["wanted"]], [3]) == [0.5]


@pytest.mark.parametrize("loss", [KTO(), APOZero(), Unlikelihood()], ids=lambda loss: loss.kind)
def test_an_unwanted_answer_is_always_pushed_down(loss: Loss) -> None:
    row = Row("p", None, loss, rejected="bad")
    for level in (-0.001, -0.3, -1.0):
        logprobs = torch.full((3,), level).requires_grad_()
        (gradient,) = torch.autograd.grad(_one(row, logprobs), logprobs)
        assert (gradient > 0).all()


@pytest.mark.parametrize("loss", [KTO(), APOZero(), Unlikelihood()], ids=lambda loss: loss.kind)
def test_a_wanted_answer_is_always_pushed_up(loss: Loss) -> None:
    logprobs = torch.full((3,), -1.0).requires_grad_()
    (gradient,) = torch.autograd.grad(_one(Row("p", "good", loss), logprobs), logprobs)
    assert (gradient < 0).all()


def test_unlikelihood_rests_at_its_floor() -> None:
    row = Row("p", None, Unlikelihood(floor=0.1), rejected="bad")
    logprobs = torch.tensor([0.5, 0.09]).log().requires_grad_()
    loss = _one(row, logprobs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert float(loss.detach()) == pytest.approx((math.log(0.9) - math.log(0.5)) / 2, rel=1e-5)
    assert gradient[0] > 0
    assert gradient[1] == 0


def test_unlikelihood_is_finite_for_a_certain_token() -> None:
    logprobs = torch.zeros(2).requires_grad_()
    loss = _one(Row("p", None, Unlikelihood(), rejected="bad"), logprobs)
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert math.isfinite(float(loss.detach()))
    assert gradient.isfinite().all()


def test_dpo_keeps_raising_the_chosen_answer_when_the_margin_is_won() -> None:
    row = Row("p", "good", DPO(beta=5.0, anchor=1.0), rejected="bad")
    logprobs = torch.tensor([-1.0, -40.0]).requires_grad_()
    batch = StepBatch([row], [1.0], logprobs, torch.tensor([0, 1]), torch.tensor([-3.0, -3.0]))
    (gradient,) = torch.autograd.grad(compute_step_loss(batch), logprobs)
    assert gradient[0] == pytest.approx(-1.0)


def test_kl_is_never_negative_and_carries_no_gradient() -> None:
    policy = torch.tensor([-1.0, -2.0], requires_grad=True)
    assert estimate_kl(policy, torch.tensor([0.0, 0.0])) == 0.0
    assert estimate_kl(policy, torch.tensor([-2.0, -2.0])) == pytest.approx(0.5)


def test_every_loss_has_its_function() -> None:
    assert set(LOSSES) == {Supervised, DPO, KTO, APOZero, Unlikelihood, Distillation}
