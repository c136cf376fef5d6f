"""Paired intervals: small numbers promote no noise, and large ones hide no fall."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ouroboros.learning.gate.intervals import compare_answers, compare_means

FLAGS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def answers(lost: int, gained: int, same: int, confidence: float = 0.8):
    before = [True] * lost + [False] * gained + [True] * same
    after = [False] * lost + [True] * gained + [True] * same
    return compare_answers(before, after, confidence)


@pytest.mark.parametrize(
    ("lost", "gained", "same", "falls"),
    [(1, 0, 9, False), (3, 0, 7, False), (4, 0, 6, True), (6, 3, 50, False), (9, 2, 100, True)],
)
def test_a_fall_is_one_that_a_sign_test_believes(lost, gained, same, falls):
    assert answers(lost, gained, same).is_significant_fall(0.02) is falls


def test_a_sure_but_tolerated_fall_is_no_fall():
    assert not answers(10, 0, 990).is_significant_fall(0.02)
    assert answers(10, 0, 990).is_significant_fall(0.005)


def test_the_bounds_are_clopper_and_pearsons():
    """Of 10 changed answers 8 lost: the share lost lies in [0.5504, 0.9455] at 80%."""
    change = answers(8, 2, 0)
    assert change.low == pytest.approx(1 - 2 * 0.9455, abs=1e-3)
    assert change.high == pytest.approx(1 - 2 * 0.5504, abs=1e-3)


@given(FLAGS)
def test_the_mean_lies_within_and_turning_time_around_mirrors_it(pairs):
    before, after = zip(*pairs, strict=True)
    forth, back = compare_answers(before, after, 0.8), compare_answers(after, before, 0.8)
    assert forth.low - 1e-9 <= forth.mean <= forth.high + 1e-9
    assert (forth.low, forth.high) == pytest.approx((-back.high, -back.low), abs=1e-6)


@given(FLAGS)
def test_what_did_not_change_moves_nothing_but_its_share(pairs):
    before, after = zip(*pairs, strict=True)
    more = compare_answers((*before, True, False), (*after, True, False), 0.8)
    alone = compare_answers(before, after, 0.8)
    assert (more.high > 0) == (alone.high > 0)
    assert (more.low < 0) == (alone.low < 0)


def test_means_are_compared_by_students_t():
    """Differences -1, -2, -3: mean -2, standard error 0.577; t at 80% with 2 degrees is 1.886."""
    change = compare_means([1.0, 2.0, 3.0], [0.0, 0.0, 0.0], 0.8)
    assert change.mean == pytest.approx(-2)
    assert change.high == pytest.approx(-2 + 1.886 * 0.5774, abs=0.02)


def test_one_measurement_proves_nothing():
    assert not compare_means([0.9], [0.1], 0.8).is_significant_fall(0.02)
