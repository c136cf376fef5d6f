"""Turn the journal's pending feedback into one update: its rows, and the outcome of every event."""

from collections.abc import Sequence
from dataclasses import dataclass

from ouroboros.domain.data import Row
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind
from ouroboros.domain.records import Lesson
from ouroboros.learning.feedback.rate_limit import UserLimit
from ouroboros.learning.feedback.signals import choose_unpaired_loss, convert_feedback, row_of

NumberedFeedback = tuple[int, FeedbackGiven]
"""A feedback event and its sequence number in the journal."""


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """The rows to train, and one lesson for each pending event, in the journal's order."""

    rows: tuple[Row, ...]
    lessons: tuple[Lesson, ...]


def plan_update(
    pending: Sequence[NumberedFeedback], learned: Sequence[NumberedFeedback], limit: UserLimit
) -> UpdatePlan:
    """Plan one update from the `pending` events; the `learned` ones were applied before.

    The plan depends on the journal alone: the same events always give the same plan.
    """
    # 1. Skip duplicates first, so that they do not count towards a user's limit.
    skipped = _find_duplicates([*learned, *pending])
    skipped |= limit.find_excess([e for e in (*learned, *pending) if e[0] not in skipped])

    # 2. Of contradicting events only the latest is trained: the user changed their mind.
    accepted = [(number, event) for number, event in pending if number not in skipped]
    for number, later in find_superseded(accepted).items():
        skipped[number] = f"superseded: event {later} gives different feedback on the same prompt"

    # 3. Convert the remaining events. The unpaired loss depends on all of them together.
    loss = choose_unpaired_loss([event for number, event in accepted if number not in skipped])
    rows, lessons = [], []
    for number, event in pending:
        if number in skipped:
            lessons.append(Lesson(number, skipped[number], learned=False))
            continue
        feedback = convert_feedback(event, loss)
        lessons.append(Lesson(number, feedback.words + _describe_replacement(event, learned)))
        if feedback.row is not None:
            rows.append(feedback.row)
    return UpdatePlan(tuple(rows), tuple(lessons))


def find_superseded(events: Sequence[NumberedFeedback]) -> dict[int, int]:
    """Map each event that a later one contradicts to the first such later event, by their numbers."""
    superseded: dict[int, int] = {}
    for i, (number, event) in enumerate(events):
        for later_number, later in events[i + 1 :]:
            if contradicts(later, event):
                superseded[number] = later_number
                break
    return superseded


def contradicts(later: FeedbackGiven, earlier: FeedbackGiven) -> bool:
    """Whether one event wants an answer that the other rejects, or both correct a prompt differently."""
    if later.prompt != earlier.prompt:
        return False
    new, old = row_of(later), row_of(earlier)
    if new is None or old is None:
        return False
    both_correct = later.signal.kind is FeedbackKind.CORRECTION is earlier.signal.kind
    return (
        (new.output is not None and new.output == old.rejected)
        or (old.output is not None and old.output == new.rejected)
        or (both_correct and new.output != old.output)
    )


def _find_duplicates(events: Sequence[NumberedFeedback]) -> dict[int, str]:
    first: dict[str, int] = {}
    duplicates = {}
    for number, event in events:
        original = first.setdefault(event.key, number)
        if original != number:
            duplicates[number] = f"the same as event {original}, nothing trained"
    return duplicates


def _describe_replacement(event: FeedbackGiven, learned: Sequence[NumberedFeedback]) -> str:
    replaced = [number for number, earlier in learned if contradicts(event, earlier)]
    return f"; replaces what event {replaced[-1]} taught" if replaced else ""
