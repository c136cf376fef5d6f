"""From the journal's pending events to one update: which rows, why, and what every event came to."""

from collections.abc import Sequence
from dataclasses import dataclass

from ouroboros.domain.data import Row
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.records import Lesson
from ouroboros.learning.conflicts import contradicts, superseded
from ouroboros.learning.limits import UserLimit
from ouroboros.learning.signals import teach, unpaired_loss


@dataclass(frozen=True, slots=True)
class Plan:
    """What to train, and one lesson for each pending event, in the journal's order."""

    rows: tuple[Row, ...]
    lessons: tuple[Lesson, ...]


def plan(
    pending: Sequence[tuple[int, FeedbackGiven]],
    learned: Sequence[tuple[int, FeedbackGiven]],
    limit: UserLimit,
) -> Plan:
    """Plan one update. Events come with their numbers in the journal; `learned` ones came before.

    The plan depends on the journal alone: the same events give the same plan, whenever it is made.
    """
    skipped = _duplicates([*learned, *pending])
    skipped |= limit.exceeded([e for e in (*learned, *pending) if e[0] not in skipped])
    standing = [(number, event) for number, event in pending if number not in skipped]
    for number, later in superseded(standing).items():
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
    return Plan(tuple(rows), tuple(lessons))


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
