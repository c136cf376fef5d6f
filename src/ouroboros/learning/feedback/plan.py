"""From the journal's pending events to one update: which rows, why, and what every event came to."""

from collections.abc import Sequence
from dataclasses import dataclass

from ouroboros.domain.data import Row
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind
from ouroboros.domain.losses import APOZero
from ouroboros.domain.records import Lesson
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.feedback.signals import teach, unpaired_loss


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """What to train, and one lesson for each pending event, in the journal's order."""

    rows: tuple[Row, ...]
    lessons: tuple[Lesson, ...]


def plan_update(
    pending: Sequence[tuple[int, FeedbackGiven]],
    learned: Sequence[tuple[int, FeedbackGiven]],
    limit: UserLimit,
) -> UpdatePlan:
    """Plan one update. Events come with their numbers in the journal; `learned` ones came before.

    The plan depends on the journal alone: the same events give the same plan, whenever it is made.
    """
    skipped = _duplicates([*learned, *pending])
    skipped |= limit.exceeded([e for e in (*learned, *pending) if e[0] not in skipped])
    standing = [(number, event) for number, event in pending if number not in skipped]
    for number, later in find_superseded(standing).items():
        skipped[number] = f"superseded: event {later} judges the same prompt differently"
    taught = {number: event for number, event in standing if number not in skipped}
    loss = unpaired_loss(list(taught.values()))
    rows, lessons = [], []
    for number, event in pending:
        if number in skipped:
            lessons.append(Lesson(number, skipped[number], learned=False))
            continue
        teaching = teach(event, loss)
        lessons.append(Lesson(number, teaching.words + _replaces(event, learned)))
        if teaching.row is not None:
            rows.append(teaching.row)
    return UpdatePlan(tuple(rows), tuple(lessons))


def _duplicates(events: Sequence[tuple[int, FeedbackGiven]]) -> dict[int, str]:
    first: dict[str, int] = {}
    found = {}
    for number, event in events:
        original = first.setdefault(event.key, number)
        if original != number:
            found[number] = f"the same as event {original}, nothing trained"
    return found


def _replaces(event: FeedbackGiven, learned: Sequence[tuple[int, FeedbackGiven]]) -> str:
    old = [number for number, earlier in learned if contradicts(event, earlier)]
    return f"; replaces what event {old[-1]} taught" if old else ""


def find_superseded(events: Sequence[tuple[int, FeedbackGiven]]) -> dict[int, int]:
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
