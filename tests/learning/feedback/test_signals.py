from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.losses import DPO, KTO, APOZero
from ouroboros.learning.feedback.signals import KTO_NEEDS, teach, unpaired_loss

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
def test_every_row_is_one_its_loss_is_defined_for(signal: FeedbackSignal, loss: KTO | APOZero) -> None:
    teaching = teach(_event(signal), loss)
    if teaching.row is not None:
        teaching.row.check()
    assert teaching.words.startswith(signal.kind.value.replace("_", " "))


@given(st.floats(-1, 0), st.sampled_from([KTO(), APOZero()]))
def test_a_failure_never_trains_towards_the_failed_answer(score: float, loss: KTO | APOZero) -> None:
    row = teach(_event(FeedbackSignal.failure(score)), loss).row
    if score == 0:
        assert row is None
    else:
        assert row is not None
        assert row.output is None
        assert row.rejected == "answer"
        assert row.weight == -score


def test_a_correction_is_anchored_dpo_against_the_answer_it_replaces() -> None:
    teaching = teach(_event(FeedbackSignal.user_correction("better")), APOZero())
    assert teaching.words == "correction -> SFT + DPO against the replaced answer"
    assert teaching.row is not None
    assert (teaching.row.output, teaching.row.rejected) == ("better", "answer")
    assert isinstance(teaching.row.loss, DPO)
    assert teaching.row.loss.anchor > 0


def test_a_correction_equal_to_the_answer_is_a_success_and_says_so() -> None:
    teaching = teach(_event(FeedbackSignal.user_correction(" answer\n")), APOZero())
    assert "recorded as success" in teaching.words
    assert teaching.row is not None
    assert (teaching.row.output, teaching.row.rejected) == ("answer", None)


@pytest.mark.parametrize(
    ("score", "output", "rejected", "weight"),
    [(1.0, "answer", None, 1.0), (0.75, "answer", None, 0.5), (0.0, None, "answer", 1.0)],
)
def test_a_preference_leans_from_its_middle(
    score: float, output: str | None, rejected: str | None, weight: float
) -> None:
    row = teach(_event(FeedbackSignal.preference(score)), APOZero()).row
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
def test_what_says_nothing_trains_nothing(signal: FeedbackSignal) -> None:
    teaching = teach(_event(signal), APOZero())
    assert teaching.row is None
    assert "nothing trained" in teaching.words


def _thumbs(up: int, down: int) -> list[FeedbackGiven]:
    good, bad = _event(FeedbackSignal.success()), _event(FeedbackSignal.failure())
    return [good] * up + [bad] * down


@given(st.integers(1, 40), st.integers(1, 40))
def test_kto_is_chosen_when_the_batch_allows_it_and_balanced_as_its_paper_says(
    up: int, down: int
) -> None:
    loss = unpaired_loss(_thumbs(up, down))
    if up + down < KTO_NEEDS:
        assert loss == APOZero()
    else:
        assert isinstance(loss, KTO)
        assert 0.999 <= loss.desirable * up / (loss.undesirable * down) <= 4 / 3 + 0.001


@pytest.mark.parametrize("events", [_thumbs(20, 0), _thumbs(0, 20), []])
def test_one_kind_of_judgement_alone_has_no_use_for_kto(events: list[FeedbackGiven]) -> None:
    assert unpaired_loss(events) == APOZero()
