"""How far one person can move an adapter."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ouroboros.domain.checks import check_int, check_number
from ouroboros.domain.events import FeedbackGiven


@dataclass(frozen=True, slots=True)
class UserLimit:
    """At most `events` of one named user are learned within `minutes`; 0 events means no limit.

    More are journalled and not learned. The owner of this program (no user named) has no limit.
    """

    events: int = 60
    minutes: float = 60.0

    def check(self) -> None:
        check_int("feedback_limit", self.events, 0, 1_000_000)
        check_number("feedback_minutes", self.minutes, 1 / 60, 1e6)

    def exceeded(self, events: Sequence[tuple[int, FeedbackGiven]]) -> dict[int, str]:
        """The events over the limit, by number, each with the reason; `events` in their order."""
        found = {}
        learned: defaultdict[str, deque[datetime]] = defaultdict(deque)
        for number, event in events:
            if event.user is None or self.events == 0:
                continue
            times = learned[event.user]
            while times and times[0] <= event.at - timedelta(minutes=self.minutes):
                times.popleft()
            if len(times) >= self.events:
                found[number] = (
                    f"not learned: {event.user} gave {self.events} judgements within"
                    f" {self.minutes:g} minutes, which is the limit for one person"
                    " (setting feedback_limit)"
                )
            else:
                times.append(event.at)
        return found
