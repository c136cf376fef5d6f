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


def _words(found: UpdatePlan) -> dict[int, str]:
    return {lesson.event: lesson.words for lesson in found.lessons}


def test_rows_keep_the_journals_order_and_every_event_has_a_lesson() -> None:
    pending = [_event(i, FIX(f"fix {i}"), prompt=f"p{i}") for i in (4, 5, 9)]
    found = plan_update(pending, [], UserLimit())
    assert [row.output for row in found.rows] == ["fix 4", "fix 5", "fix 9"]
    assert list(_words(found)) == [4, 5, 9]


def test_the_latest_of_contradicting_corrections_counts() -> None:
    found = plan_update([_event(1, FIX("x")), _event(2, FIX("y"))], [], UserLimit())
    assert [row.output for row in found.rows] == ["y"]
    assert _words(found)[1] == "superseded: event 2 judges the same prompt differently"


def test_blame_of_an_answer_supersedes_its_praise() -> None:
    pending = [_event(1, FeedbackSignal.success()), _event(2, FeedbackSignal.failure())]
    found = plan_update(pending, [], UserLimit())
    assert [(row.output, row.rejected) for row in found.rows] == [(None, "a")]


def test_agreeing_judgements_all_count() -> None:
    pending = [_event(1, FIX("x")), _event(2, FeedbackSignal.success(), answer="x")]
    assert len(plan_update(pending, [], UserLimit()).rows) == 2


def test_replacing_what_was_learned_earlier_is_said() -> None:
    found = plan_update([_event(7, FIX("y"))], [_event(3, FIX("x"))], UserLimit())
    assert len(found.rows) == 1
    assert _words(found)[7].endswith("; replaces what event 3 taught")


def test_an_event_seen_before_is_not_learned_again() -> None:
    learned = [_event(1, FIX("x"), key="same")]
    pending = [_event(2, FIX("x"), key="same"), _event(3, FIX("x"), key="other")]
    found = plan_update(pending, learned, UserLimit())
    assert len(found.rows) == 1
    assert _words(found)[2] == "the same as event 1, nothing trained"


def test_a_person_over_the_limit_is_held_back_and_told() -> None:
    events = [_event(i, FIX(str(i)), prompt=f"p{i}", user="mallory") for i in range(1, 6)]
    found = plan_update(events[2:], events[:2], UserLimit(events=3, minutes=60))
    assert [row.output for row in found.rows] == ["3"]
    assert "mallory gave 3 judgements within 60 minutes" in _words(found)[4]


def test_the_limit_lets_go_when_its_window_has_passed() -> None:
    events = [_event(i, FIX(str(i)), prompt=f"p{i}", user="ann") for i in (1, 2, 30)]
    found = plan_update(events, [], UserLimit(events=1, minutes=20))
    assert [row.output for row in found.rows] == ["1", "30"]


def test_limits_are_for_each_person_and_not_for_the_owner() -> None:
    owner = [_event(i, FIX(str(i)), prompt=f"p{i}") for i in range(1, 20)]
    others = [_event(20, FIX("a"), prompt="q", user="ann"), _event(21, FIX("b"), prompt="r", user="bob")]
    assert len(plan_update([*owner, *others], [], UserLimit(events=1)).rows) == 21


def test_many_single_judgements_of_both_kinds_share_kto() -> None:
    signals = [FeedbackSignal.success(), FeedbackSignal.failure()] * 4
    pending = [_event(i, s, prompt=f"p{i}") for i, s in enumerate(signals, start=1)]
    found = plan_update(pending, [], UserLimit())
    assert {type(row.loss) for row in found.rows} == {KTO}
    assert "KTO" in _words(found)[1]
