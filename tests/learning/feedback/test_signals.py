"""The table from feedback signals to training rows, and the loss of a batch's unpaired rows."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.losses import DPO, KTO, APOZero
from ouroboros.learning.feedback.signals import (
    MIN_KTO_ROWS,
    MIN_WEIGHT,
    choose_unpaired_loss,
    convert_feedback,
    row_of,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _event(signal: FeedbackSignal, answer: str = "answer") -> FeedbackGiven:
    return FeedbackGiven("prompt", answer, signal, key="k", at=NOW)


SIGNALS = st.one_of(
    st.floats(0, 1).map(FeedbackSignal.success),
    st.floats(-1, 0).map(FeedbackSignal.failure),
    st.floats(0, 1).map(FeedbackSignal.preference),
    st.just(FeedbackSignal.user_correction("better")),
    st.just(FeedbackSignal.preference_pair("better", "answer")),
    st.just(FeedbackSignal.critique("too long")),
)


@given(SIGNALS, st.sampled_from([KTO(), APOZero()]))
def test_every_row_fits_its_loss(signal: FeedbackSignal, loss: KTO | APOZero) -> None:
    feedback = convert_feedback(_event(signal), loss)
    if feedback.row is not None:
        feedback.row.check()
    assert feedback.words.startswith(signal.kind.value.replace("_", " "))


@given(st.floats(-1, 0), st.sampled_from([KTO(), APOZero()]))
def test_a_failure_never_trains_towards_the_failed_answer(score: float, loss: KTO | APOZero) -> None:
    feedback = convert_feedback(_event(FeedbackSignal.failure(score)), loss)
    row = feedback.row
    if -score < MIN_WEIGHT:
        assert row is None
    else:
        assert row is not None
        assert row.loss == loss
        assert row.output is None
        assert row.rejected == "answer"
        assert row.weight == -score


def test_a_correction_is_anchored_dpo_against_the_answer_it_replaces() -> None:
    feedback = convert_feedback(_event(FeedbackSignal.user_correction("better")), APOZero())
    assert feedback.words == "correction -> SFT + DPO against the replaced answer"
    assert feedback.row is not None
    assert (feedback.row.output, feedback.row.rejected) == ("better", "answer")
    assert isinstance(feedback.row.loss, DPO)
    assert feedback.row.loss.anchor > 0


def test_a_correction_equal_to_the_answer_is_recorded_as_success() -> None:
    feedback = convert_feedback(_event(FeedbackSignal.user_correction(" answer\n")), APOZero())
    assert "recorded as success" in feedback.words
    assert feedback.row is not None
    assert (feedback.row.output, feedback.row.rejected) == ("answer", None)


@pytest.mark.parametrize(
    ("score", "output", "rejected", "weight"),
    [(1.0, "answer", None, 1.0), (0.75, "answer", None, 0.5), (0.0, None, "answer", 1.0)],
)
def test_a_preference_is_weighted_by_its_distance_from_one_half(
    score: float, output: str | None, rejected: str | None, weight: float
) -> None:
    row = row_of(_event(FeedbackSignal.preference(score)))
    assert row is not None
    assert (row.output, row.rejected, row.weight) == (output, rejected, weight)


@pytest.mark.parametrize(
    "signal",
    [
        FeedbackSignal.critique("too long"),
        FeedbackSignal.preference(0.5),
        FeedbackSignal.success(0.0),
        FeedbackSignal.failure(0.0),
    ],
)
def test_neutral_feedback_trains_nothing(signal: FeedbackSignal) -> None:
    feedback = convert_feedback(_event(signal), APOZero())
    assert feedback.row is None
    assert "nothing trained" in feedback.words


@pytest.mark.parametrize(
    "signal",
    [
        FeedbackSignal.success(1e-40),
        FeedbackSignal.failure(-5e-324),
        FeedbackSignal.preference(0.5 + 1e-12),
    ],
)
def test_a_tiny_score_trains_nothing_and_says_so(signal: FeedbackSignal) -> None:
    feedback = convert_feedback(_event(signal), APOZero())
    assert feedback.row is None
    assert feedback.words.endswith("the score is too small, nothing trained")


@given(SIGNALS, st.sampled_from([KTO(), APOZero()]))
def test_only_the_loss_of_a_row_depends_on_the_batch(
    signal: FeedbackSignal, loss: KTO | APOZero
) -> None:
    row, batch_row = row_of(_event(signal)), convert_feedback(_event(signal), loss).row
    assert (row is None) == (batch_row is None)
    if row is not None and batch_row is not None:
        assert replace(batch_row, loss=row.loss) == row


@pytest.mark.parametrize(("loss", "name"), [(KTO(), "KTO"), (APOZero(), "APO-zero")])
def test_the_description_names_the_loss_of_the_batch(loss: KTO | APOZero, name: str) -> None:
    feedback = convert_feedback(_event(FeedbackSignal.success(0.5)), loss)
    assert feedback.words == f"success -> towards the answer, weight 0.5, with {name}"


def _thumbs(up: int, down: int) -> list[FeedbackGiven]:
    good, bad = _event(FeedbackSignal.success()), _event(FeedbackSignal.failure())
    return [good] * up + [bad] * down


@given(st.integers(1, 40), st.integers(1, 40))
def test_large_mixed_batches_use_kto_with_balanced_weights(up: int, down: int) -> None:
    loss = choose_unpaired_loss(_thumbs(up, down))
    if up + down < MIN_KTO_ROWS:
        assert loss == APOZero()
    else:
        assert isinstance(loss, KTO)
        assert 0.999 <= loss.desirable * up / (loss.undesirable * down) <= 4 / 3 + 0.001


@pytest.mark.parametrize("events", [_thumbs(20, 0), _thumbs(0, 20), []])
def test_kto_is_not_used_without_rows_of_both_kinds(events: list[FeedbackGiven]) -> None:
    assert choose_unpaired_loss(events) == APOZero()


@pytest.mark.parametrize(
    "signal",
    [
        FeedbackSignal.failure(True),
        FeedbackSignal.failure(1),
        FeedbackSignal.success(True),
        FeedbackSignal.success(-1),
        FeedbackSignal.preference(False),
        FeedbackSignal.preference(-0.2),
        FeedbackSignal.failure(float("nan")),
    ],
)
def test_a_boolean_or_a_score_of_the_wrong_sign_is_refused(signal: FeedbackSignal) -> None:
    with pytest.raises(InvalidExample, match="score"):
        signal.check()
