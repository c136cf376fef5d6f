"""The log of recent feedback on one adapter."""

from datetime import UTC, datetime

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.learning.feedback.log import MAX_EVENTS, FeedbackLog

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _make_feedback(signal: FeedbackSignal, prompt: str = "p", answer: str = "a") -> FeedbackGiven:
    return FeedbackGiven(prompt, answer, signal, key=f"{prompt}{answer}{signal}", at=NOW)


def test_feedback_is_listed_with_its_numbers() -> None:
    log = FeedbackLog(0)
    first, later = (
        _make_feedback(FeedbackSignal.failure()),
        _make_feedback(FeedbackSignal.success(), "q"),
    )
    log.add_event(1, first)
    log.add_event(2, ExamplesGiven((TrainingExample("r", "b"),), NOW))
    log.add_event(3, later)
    assert log.events_up_to(2) == [(1, first)]
    assert log.events_up_to(3) == [(1, first), (3, later)]


def test_the_log_is_bounded() -> None:
    log = FeedbackLog(0)
    for number in range(2, MAX_EVENTS + 10):
        log.add_event(number, _make_feedback(FeedbackSignal.success(), f"s{number}"))
    assert len(log.events_up_to(10**9)) == MAX_EVENTS


def test_a_key_belongs_to_its_first_event() -> None:
    log = FeedbackLog(4)
    log.add_event(5, _make_feedback(FeedbackSignal.success()))
    log.add_event(6, _make_feedback(FeedbackSignal.success()))
    assert list(log.keys.values()) == [5]
    assert log.read_to == 6
