"""The judgements an adapter has been given so far, read from its journal event by event."""

from collections import deque

from ouroboros.domain.events import Event, FeedbackGiven

RECENT = 1000
"""Judgements that a new one is compared with."""


class FeedbackLog:
    """The journal's digest: bounded, and the same whenever it is read again.

    `read_to` is the last event taken in. Numbers are places in the journal.
    """

    def __init__(self, born: int) -> None:
        self.read_to = born
        self.keys: dict[str, int] = {}
        self._judged: deque[tuple[int, FeedbackGiven]] = deque(maxlen=RECENT)

    def take(self, number: int, event: Event) -> None:
        """Take in the journal's next event."""
        self.read_to = number
        if isinstance(event, FeedbackGiven):
            self.keys.setdefault(event.key, number)
            self._judged.append((number, event))

    def judged(self, up_to: int) -> list[tuple[int, FeedbackGiven]]:
        """Recent judgements, up to a place in the journal."""
        return [(number, event) for number, event in self._judged if number <= up_to]
