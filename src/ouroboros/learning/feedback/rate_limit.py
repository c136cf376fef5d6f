"""The limit on how much feedback of one person an adapter learns."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ouroboros.domain.checks import check_int, check_number
from ouroboros.domain.events import FeedbackGiven


@dataclass(frozen=True, slots=True)
class UserLimit:
    """An adapter learns at most `events` of one named user within `minutes`; 0 events means no limit.

    Events over the limit are journalled and not learned. Feedback without a user has no limit.
    """

    events: int = 60
    minutes: float = 60.0

    def check(self) -> None:
        """Raise `InvalidConfig` if the limit or the window is out of range."""
        check_int("feedback_limit", self.events, 0, 1_000_000)
        check_number("feedback_minutes", self.minutes, 1 / 60, 1e6)

    def find_excess(self, events: Sequence[tuple[int, FeedbackGiven]]) -> dict[int, str]:
        """Map the number of each event over the limit to the reason; `events` are oldest first."""
        excess = {}
        accepted: defaultdict[str, deque[datetime]] = defaultdict(deque)
        for number, event in events:
            if event.user is None or self.events == 0:
                continue
            times = accepted[event.user]
            while times and times[0] <= event.at - timedelta(minutes=self.minutes):
                times.popleft()
            if len(times) >= self.events:
                excess[number] = (
                    f"not learned: {event.user} gave feedback {self.events} times within"
                    f" {self.minutes:g} minutes, which is the limit for one person"
                    " (setting feedback_limit)"
                )
            else:
                times.append(event.at)
        return excess
