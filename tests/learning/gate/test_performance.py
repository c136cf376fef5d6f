"""What judgements say of versions: counted, compared exactly, and rarely wrong about a fall."""

import random
from datetime import UTC, datetime, timedelta
from itertools import count as numbers

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.performance import UsageCounts
from ouroboros.learning.gate.performance import (
    PerformanceTracker,
    find_regression,
    fisher_p_value,
    is_positive,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GOOD, BAD = FeedbackSignal.success(), FeedbackSignal.failure()


def feedback_entry(signal: FeedbackSignal, answered: str = "a@1", user: str | None = None, day: int = 0):
    return FeedbackGiven("p", "said", signal, "k", NOW + timedelta(days=day), user, answered)


@pytest.mark.parametrize(
    ("signal", "good"),
    [
        (GOOD, True),
        (FeedbackSignal.success(0.0), None),
        (BAD, False),
        (FeedbackSignal.failure(0.0), None),
        (FeedbackSignal.user_correction("other"), False),
        (FeedbackSignal.user_correction(" said "), True),
        (FeedbackSignal.preference(0.9), True),
        (FeedbackSignal.preference(0.1), False),
        (FeedbackSignal.preference(0.5), None),
        (FeedbackSignal.preference_pair("said", "other"), True),
        (FeedbackSignal.preference_pair("other", "said"), False),
        (FeedbackSignal.preference_pair("one", "two"), None),
        (FeedbackSignal.critique("hm"), None),
    ],
)
def test_what_a_signal_says_of_the_answer(signal, good) -> None:
    assert is_positive(feedback_entry(signal)) is good


def test_wilsons_interval_is_the_published_one() -> None:
    """Values of Newcombe (1998), Table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for good, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        assert UsageCounts(good, n - good).interval == pytest.approx((low, high), abs=1e-4)
    for good, n, low, high in ((0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert UsageCounts(good, n - good).interval == pytest.approx((low, high), abs=1e-4)
    assert UsageCounts().interval == (0.0, 1.0)


def test_fishers_exact_test_gives_the_textbooks_values() -> None:
    """The lady tasting tea: 3 of 4 and 1 of 4 come by chance with 17/70."""
    assert fisher_p_value(UsageCounts(1, 3), UsageCounts(3, 1)) == pytest.approx(17 / 70)
    assert fisher_p_value(UsageCounts(0, 4), UsageCounts(4, 0)) == pytest.approx(1 / 70)
    assert fisher_p_value(UsageCounts(4, 0), UsageCounts(0, 4)) == 1
    assert (
        fisher_p_value(UsageCounts(), UsageCounts(5, 5))
        == fisher_p_value(UsageCounts(0, 3), UsageCounts())
        == 1
    )


def test_uses_are_counted_by_the_version_that_answered() -> None:
    tracker = PerformanceTracker(0)
    tracker.add_event(1, ExamplesGiven((TrainingExample("a", "b"),), NOW))
    for n, (signal, version) in enumerate([(GOOD, "a@1"), (BAD, "a@2"), (BAD, "a@2"), (GOOD, "a@2")], 2):
        tracker.add_event(n, feedback_entry(signal, version, day=n))
    assert (tracker.usage["a@1"].good, tracker.usage["a@1"].bad) == (1, 0)
    assert (tracker.usage["a@2"].good, tracker.usage["a@2"].bad) == (1, 2)
    assert tracker.usage["a@2"].per_day == 1.0
    assert tracker.usage["a@2"].smoothed_rate == 0.4
    assert tracker.read_to == 5


def test_one_user_is_heard_once_for_each_version_and_the_owner_always() -> None:
    tracker = PerformanceTracker(0)
    for n in range(1, 9):
        tracker.add_event(n, feedback_entry(BAD, user="eve" if n % 2 else None))
    assert tracker.outcomes["a@1"] == [(1, False), (2, False), (4, False), (6, False), (8, False)]
    assert tracker.usage["a@1"].bad == 8


def test_the_trend_is_told_once_there_is_enough_to_tell() -> None:
    tracker = PerformanceTracker(0)
    for n in range(1, 80):
        tracker.add_event(n, feedback_entry(GOOD if n < 60 else BAD))
        if n < 40:
            assert tracker.trend == ""
        if n == 45:
            assert tracker.trend == "steady"
    assert tracker.trend == "falling"


def line(*versions: str):
    """Versions from the head on, each as its judgements; those of older ones came first."""
    seq = numbers(1)
    return [[(next(seq), c == "+") for c in v] for v in reversed(versions)][::-1]


@pytest.mark.parametrize(
    ("versions", "cut"),
    [
        (("----", "+" * 20), 1),
        (("---", "+" * 20), None),  # too few to look
        (("----", "+++"), None),  # too few before
        (("-" * 8, "+" * 8), 1),
        (("----", "----", "+" * 20), 2),
        (("", "--", "--", "+" * 20), 3),  # every judgement makes a version: seen together
        (("+-+-", "+-" * 10), None),
        (("++++", "+" * 20), None),
        (("-" * 16, "-" * 20), None),
        (("+" * 16, "----", "+" * 20), None),  # it has recovered
    ],
)
def test_a_fall_is_seen_from_few_judgements(versions, cut) -> None:
    judgements = line(*versions)
    regression = find_regression(judgements, 0.05, max(n for v in judgements for n, _ in v))
    assert (regression and regression.cut) == cut


def test_only_the_event_that_completes_a_look_looks() -> None:
    """Whoever serves the version again against the evidence is not overruled by the same evidence."""
    judgements = line("-----", "+" * 20)
    assert [n for n in range(1, 26) if find_regression(judgements, 0.05, n)] == [24]


def test_a_version_that_is_no_worse_is_seldom_gone_back_from() -> None:
    """However long one looks: false alarms stay below the level."""
    chance, alarms = random.Random(1), 0
    for _ in range(300):
        heads = line("".join("+" if chance.random() < 0.7 else "-" for _ in range(64)), *["++-+-" * 10])
        alarms += any(find_regression(heads, 0.05, 50 + n) for n in range(1, 65))
    assert alarms <= 15
