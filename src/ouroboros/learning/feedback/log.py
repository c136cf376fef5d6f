"""The recent feedback on an adapter, read from its journal event by event."""

from collections import deque

from ouroboros.domain.events import Event, FeedbackGiven

MAX_EVENTS = 1000
"""How many earlier feedback events a new one is compared with."""


class FeedbackLog:
    """A bounded digest of an adapter's feedback: reading the same journal gives the same log.

    Events are numbered by their sequence numbers in the journal. `read_to` is the last event added;
    `keys` maps the key of each feedback event to the first event that has it.
    """

    def __init__(self, start: int) -> None:
        self.read_to = start
        self.keys: dict[str, int] = {}
        self._events: deque[tuple[int, FeedbackGiven]] = deque(maxlen=MAX_EVENTS)

    def add_event(self, number: int, event: Event) -> None:
        """Add the journal's next event."""
        self.read_to = number
        if isinstance(event, FeedbackGiven):
            self.keys.setdefault(event.key, number)
            self._events.append((number, event))

    def events_up_to(self, last: int) -> list[tuple[int, FeedbackGiven]]:
        """The recent feedback events up to number `last`, oldest first."""
        return [(number, event) for number, event in self._events if number <= last]
