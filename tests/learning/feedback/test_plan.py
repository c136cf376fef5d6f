"""How pending feedback becomes the rows and the lessons of one update."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.losses import KTO
from ouroboros.learning.feedback.plan import UpdatePlan, plan_update
from ouroboros.learning.feedback.rate_limit import UserLimit

START = datetime(2026, 1, 1, tzinfo=UTC)
FIX = FeedbackSignal.user_correction


def _event(
    number: int, signal: FeedbackSignal, *, prompt: str = "p", answer: str = "a", **fields: Any
) -> tuple[int, FeedbackGiven]:
    key = fields.pop("key", f"key-{number}")
    at = START + timedelta(minutes=number)
    return number, FeedbackGiven(prompt, answer, signal, key=key, at=at, **fields)


def _words(plan: UpdatePlan) -> dict[int, str]:
    return {lesson.event: lesson.words for lesson in plan.lessons}


def test_rows_follow_the_journal_and_every_event_has_a_lesson() -> None:
    pending = [_event(i, FIX(f"fix {i}"), prompt=f"p{i}") for i in (4, 5, 9)]
    plan = plan_update(pending, [], UserLimit())
    assert [row.output for row in plan.rows] == ["fix 4", "fix 5", "fix 9"]
    assert list(_words(plan)) == [4, 5, 9]


def test_of_contradicting_corrections_the_latest_is_trained() -> None:
    plan = plan_update([_event(1, FIX("x")), _event(2, FIX("y"))], [], UserLimit())
    assert [row.output for row in plan.rows] == ["y"]
    assert _words(plan)[1] == "superseded: event 2 gives different feedback on the same prompt"


def test_a_failure_supersedes_an_earlier_success_of_the_same_answer() -> None:
    pending = [_event(1, FeedbackSignal.success()), _event(2, FeedbackSignal.failure())]
    plan = plan_update(pending, [], UserLimit())
    assert [(row.output, row.rejected) for row in plan.rows] == [(None, "a")]


def test_agreeing_feedback_is_all_trained() -> None:
    pending = [_event(1, FIX("x")), _event(2, FeedbackSignal.success(), answer="x")]
    assert len(plan_update(pending, [], UserLimit()).rows) == 2


def test_a_lesson_names_the_learned_event_that_it_replaces() -> None:
    plan = plan_update([_event(7, FIX("y"))], [_event(3, FIX("x"))], UserLimit())
    assert len(plan.rows) == 1
    assert _words(plan)[7].endswith("; replaces what event 3 taught")


def test_a_duplicate_event_is_not_learned_again() -> None:
    learned = [_event(1, FIX("x"), key="same")]
    pending = [_event(2, FIX("x"), key="same"), _event(3, FIX("x"), key="other")]
    plan = plan_update(pending, learned, UserLimit())
    assert len(plan.rows) == 1
    assert _words(plan)[2] == "the same as event 1, nothing trained"


def test_events_over_a_users_limit_are_not_learned_and_say_why() -> None:
    events = [_event(i, FIX(str(i)), prompt=f"p{i}", user="mallory") for i in range(1, 6)]
    plan = plan_update(events[2:], events[:2], UserLimit(events=3, minutes=60))
    assert [row.output for row in plan.rows] == ["3"]
    assert "mallory gave feedback 3 times within 60 minutes" in _words(plan)[4]


def test_the_limit_ends_with_its_time_window() -> None:
    events = [_event(i, FIX(str(i)), prompt=f"p{i}", user="ann") for i in (1, 2, 30)]
    plan = plan_update(events, [], UserLimit(events=1, minutes=20))
    assert [row.output for row in plan.rows] == ["1", "30"]


def test_each_user_has_a_separate_limit_and_the_owner_none() -> None:
    owner = [_event(i, FIX(str(i)), prompt=f"p{i}") for i in range(1, 20)]
    others = [_event(20, FIX("a"), prompt="q", user="ann"), _event(21, FIX("b"), prompt="r", user="bob")]
    assert len(plan_update([*owner, *others], [], UserLimit(events=1)).rows) == 21


def test_many_unpaired_events_of_both_kinds_train_with_kto() -> None:
    signals = [FeedbackSignal.success(), FeedbackSignal.failure()] * 4
    pending = [_event(i, s, prompt=f"p{i}") for i, s in enumerate(signals, start=1)]
    plan = plan_update(pending, [], UserLimit())
    assert {type(row.loss) for row in plan.rows} == {KTO}
    assert "KTO" in _words(plan)[1]
