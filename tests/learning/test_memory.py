from datetime import UTC, datetime

from ouroboros.domain.events import ExamplesGiven, FeedbackGiven
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.learning.anchors import ANCHORS, PROSE
from ouroboros.learning.memory import KNOWN, RECENT, Memory

PLAIN = {*ANCHORS, *PROSE}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _judged(signal: FeedbackSignal, prompt: str = "p", answer: str = "a") -> FeedbackGiven:
    return FeedbackGiven(prompt, answer, signal, key=f"{prompt}{answer}{signal}", at=NOW)


def _given(*pairs: tuple[str, str]) -> ExamplesGiven:
    return ExamplesGiven(tuple(TrainingExample(*pair) for pair in pairs), NOW)


def _known(memory: Memory, up_to: int = 10**9) -> dict[object, str]:
    return {e.input: e.output for e in memory.protect(10**6, up_to, ()) if e not in PLAIN}


def test_the_latest_word_about_a_prompt_is_what_is_known() -> None:
    memory = Memory(0)
    memory.take(1, _given(("p", "old"), ("q", "other")))
    memory.take(2, _judged(FeedbackSignal.user_correction("new"), "p", "old"))
    memory.take(3, _judged(FeedbackSignal.success(), "r", "fine"))
    assert _known(memory) == {"p": "new", "q": "other", "r": "fine"}


def test_a_blamed_answer_is_known_no_longer() -> None:
    memory = Memory(0)
    memory.take(1, _given(("p", "a"), ("q", "b")))
    memory.take(2, _judged(FeedbackSignal.failure(), "p", "a"))
    memory.take(3, _judged(FeedbackSignal.failure(), "q", "something else"))
    assert _known(memory) == {"q": "b"}


def test_protection_leaves_out_the_corrected_prompts_and_the_future() -> None:
    memory = Memory(0)
    memory.take(1, _given(("p", "a"), ("q", "b")))
    memory.take(2, _given(("r", "c")))
    assert {e.input for e in memory.protect(2, 1, {"p"}) if e not in PLAIN} == {"q"}


def test_plain_exchanges_are_protected_beside_what_is_known() -> None:
    memory = Memory(0)
    memory.take(1, _given(*((f"p{i}", "a") for i in range(50))))
    found = memory.protect(8, 1, ())
    assert {*found} >= PLAIN
    assert len(found) == len(ANCHORS) + 8 + len(PROSE)


def test_protection_depends_on_the_journal_alone() -> None:
    events = [_given(*((f"p{i}", "a") for i in range(50)))]
    first, second = Memory(0), Memory(0)
    for memory in (first, second):
        for number, event in enumerate(events, start=1):
            memory.take(number, event)
    assert first.protect(8, 1, ()) == second.protect(8, 1, ())


def test_memory_is_bounded() -> None:
    memory = Memory(0)
    memory.take(1, _given(*((f"p{i}", "a") for i in range(KNOWN + 5))))
    for number in range(2, RECENT + 10):
        memory.take(number, _judged(FeedbackSignal.success(), f"s{number}"))
    assert len(memory.judged(10**9)) == RECENT
    assert len(_known(memory)) == KNOWN


def test_the_first_event_of_a_key_is_the_one_that_counts() -> None:
    memory = Memory(4)
    memory.take(5, _judged(FeedbackSignal.success()))
    memory.take(6, _judged(FeedbackSignal.success()))
    assert list(memory.keys.values()) == [5]
    assert memory.read_to == 6
