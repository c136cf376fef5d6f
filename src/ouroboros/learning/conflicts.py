"""Judgements that contradict each other: the latest one counts, and the earlier one says so."""

from collections.abc import Sequence

from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind
from ouroboros.domain.losses import APOZero
from ouroboros.learning.signals import teach


def superseded(events: Sequence[tuple[int, FeedbackGiven]]) -> dict[int, int]:
    """Events, by number, that a later one of the same prompt contradicts, and the first that does."""
    found: dict[int, int] = {}
    for at, (number, event) in enumerate(events):
        for later_number, later in events[at + 1 :]:
            if contradicts(later, event):
                found[number] = later_number
                break
    return found


def contradicts(later: FeedbackGiven, earlier: FeedbackGiven) -> bool:
    """Whether one wants what the other does not, or both correct the same prompt differently."""
    if later.prompt != earlier.prompt:
        return False
    new, old = teach(later, APOZero()).row, teach(earlier, APOZero()).row
    if new is None or old is None:
        return False
    both_correct = later.signal.kind is FeedbackKind.CORRECTION is earlier.signal.kind
    return (
        (new.output is not None and new.output == old.rejected)
        or (old.output is not None and old.output == new.rejected)
        or (both_correct and new.output != old.output)
    )
