"""What comes from outside is refused before it is stored if it is too long or no text."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from ouroboros.domain.data import Message
from ouroboros.domain.errors import InvalidExample
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.limits import MAX_KEY, MAX_TEXT, MAX_USER

LONG = "x" * (MAX_TEXT + 1)
EVENT = FeedbackGiven("prompt", "answer", FeedbackSignal.critique("why"), "key", datetime.now(UTC))


def test_an_event_at_its_limits_is_accepted():
    longest = replace(EVENT, prompt="x" * MAX_TEXT, user="u" * MAX_USER, key="k" * MAX_KEY)
    longest.check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": 42}, "user is int"),
        ({"key": 7}, "key is int"),
        ({"user": "u" * (MAX_USER + 1)}, "user is 257 characters"),
        ({"key": "k" * (MAX_KEY + 1)}, "key is 257 characters"),
        ({"user": "ann\udcff"}, "surrogate"),
        ({"prompt": LONG}, "prompt is 100,001"),
        ({"prompt": (Message("user", "x" * MAX_TEXT), Message("user", "x"))}, "prompt is 100,001"),
        ({"generation": LONG}, "answer is 100,001"),
        ({"signal": FeedbackSignal.critique(LONG)}, "feedback is 100,001"),
        ({"signal": FeedbackSignal.preference_pair("a", LONG)}, "rejected answer is 100,001"),
    ],
)
def test_an_event_over_its_limits_is_refused(changes, message):
    with pytest.raises(InvalidExample, match=message):
        replace(EVENT, **changes).check()
