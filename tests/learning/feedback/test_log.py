from datetime import UTC, datetime

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.learning.feedback.log import RECENT, FeedbackLog

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _judged(signal: FeedbackSignal, prompt: str = "p", answer: str = "a") -> FeedbackGiven:
    return FeedbackGiven(prompt, answer, signal, key=f"{prompt}{answer}{signal}", at=NOW)


def test_judgements_are_remembered_with_their_places_in_the_journal() -> None:
    memory = FeedbackLog(0)
    first, later = _judged(FeedbackSignal.failure()), _judged(FeedbackSignal.success(), "q")
    memory.take(1, first)
    memory.take(2, ExamplesGiven((TrainingExample("r", "b"),), NOW))
    memory.take(3, later)
    assert memory.judged(2) == [(1, first)]
    assert memory.judged(3) == [(1, first), (3, later)]


def test_memory_is_bounded() -> None:
    memory = FeedbackLog(0)
    for number in range(2, RECENT + 10):
        memory.take(number, _judged(FeedbackSignal.success(), f"s{number}"))
    assert len(memory.judged(10**9)) == RECENT


def test_the_first_event_of_a_key_is_the_one_that_counts() -> None:
    memory = FeedbackLog(4)
    memory.take(5, _judged(FeedbackSignal.success()))
    memory.take(6, _judged(FeedbackSignal.success()))
    assert list(memory.keys.values()) == [5]
    assert memory.read_to == 6
