"""How versions do in use: feedback counted by version, and a test for versions that made it worse."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import comb

from ouroboros.domain.events import Event, FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind
from ouroboros.domain.performance import UsageCounts

FIRST_COMPARISON = 4
"""How many judged answers newer versions need before the first comparison."""

MAX_CUTS = 8
"""How many versions back from the head a regression can have begun."""

TREND_WINDOW = 20
"""How many of the latest judged answers a trend compares with all earlier ones."""


Outcome = tuple[int, bool]
"""A judged answer: the event's number in the journal, and whether the feedback was positive."""


class PerformanceTracker:
    """Counts one adapter's feedback by the version that answered. `read_to` is the last event read.

    `outcomes` has the judged answers of each version, oldest first, with only the first of each named
    user: a single user must not be able to move the head.
    """

    def __init__(self, start: int) -> None:
        self.read_to = start
        self.usage: dict[str, UsageCounts] = {}
        self.outcomes: defaultdict[str, list[Outcome]] = defaultdict(list)
        self._users: defaultdict[str, set[str]] = defaultdict(set)
        self._recent: deque[bool] = deque(maxlen=TREND_WINDOW)
        self._all = UsageCounts()

    def add_event(self, number: int, event: Event) -> None:
        """Count the journal's next event, if it is feedback on an answer of a known version."""
        self.read_to = number
        if not isinstance(event, FeedbackGiven) or event.answered is None:
            return
        positive = is_positive(event)
        if positive is None:
            return
        one = UsageCounts(int(positive), int(not positive), event.at, event.at)
        self.usage[event.answered] = self.usage.get(event.answered, UsageCounts()) + one
        self._all += one
        self._recent.append(positive)
        users = self._users[event.answered]
        if event.user not in users:
            self.outcomes[event.answered].append((number, positive))
        if event.user is not None:
            users.add(event.user)

    @property
    def trend(self) -> str:
        """ "rising", "falling" or "steady"; "" before there are enough judged answers to compare."""
        recent = UsageCounts(sum(self._recent), len(self._recent) - sum(self._recent))
        earlier = UsageCounts(self._all.good - recent.good, self._all.bad - recent.bad)
        if recent.judged < TREND_WINDOW or earlier.judged < TREND_WINDOW:
            return ""
        if fisher_p_value(recent, earlier) < 0.025:
            return "falling"
        return "rising" if fisher_p_value(earlier, recent) < 0.025 else "steady"


def is_positive(event: FeedbackGiven) -> bool | None:
    """Whether feedback says that the answer was right; None if it says neither right nor wrong."""
    signal, score = event.signal, event.signal.score or 0.0
    match signal.kind:
        case FeedbackKind.CORRECTION:
            return (signal.text or "").strip() == event.generation.strip()
        case FeedbackKind.SUCCESS:
            return True if score > 0 else None
        case FeedbackKind.FAILURE:
            return False if score < 0 else None
        case FeedbackKind.PREFERENCE:
            return None if score == 0.5 else score > 0.5
        case FeedbackKind.PREFERENCE_PAIR:
            answer = event.generation.strip()
            if answer == (signal.rejected or "").strip():
                return False
            return True if answer == (signal.text or "").strip() else None
        case _:
            return None


def fisher_p_value(after: UsageCounts, before: UsageCounts) -> float:
    """The p-value of `after` having a lower share of good answers: Fisher's exact test, one-sided.

    Exact for any number of judged answers; 1 if either side has none.
    """
    good, judged = after.good + before.good, after.judged + before.judged
    ways = sum(
        comb(good, g) * comb(judged - good, after.judged - g)
        for g in range(after.good + 1)
        if 0 <= after.judged - g <= judged - good
    )
    return ways / comb(judged, after.judged)


@dataclass(frozen=True, slots=True)
class Regression:
    """Answers became worse with the newest `cut` versions: `after` against `before`."""

    cut: int
    after: UsageCounts
    before: UsageCounts
    chance: float


def find_regression(
    outcomes: Sequence[Sequence[Outcome]], level: float, last_event: int
) -> Regression | None:
    """Find the newest versions that are worse than the older ones, if the evidence is strong enough.

    `outcomes` has the judged answers of each version, from the head back through its parents. For each
    possible cut, the answers after it are compared with those before it. Repeated comparisons find
    differences by chance, so a cut is compared only by the event that doubles its number of judged
    answers, each time at half the level, and the level is shared among the cuts: for versions that are
    no worse, the probability of ever reporting a regression is at most `level`.
    """
    for cut in range(1, min(len(outcomes), MAX_CUTS + 1)):
        # Compare only if `last_event` brings the newer versions to 4, 8, 16, ... judged answers.
        newer = sorted(o for o in chain(*outcomes[:cut]) if o[0] <= last_event)
        comparison = (len(newer) // FIRST_COMPARISON).bit_length()
        if not comparison or len(newer) != FIRST_COMPARISON * 2 ** (comparison - 1):
            continue
        if newer[-1][0] != last_event:
            continue
        after = count_outcomes(newer)
        before = count_outcomes([o for o in chain(*outcomes[cut:]) if o[0] < last_event])
        p_value = fisher_p_value(after, before)
        if p_value < level / MAX_CUTS / 2**comparison:
            return Regression(cut, after, before, p_value)
    return None


def count_outcomes(outcomes: Sequence[Outcome]) -> UsageCounts:
    """Count the positive and the negative judgements."""
    good = sum(positive for _, positive in outcomes)
    return UsageCounts(good, len(outcomes) - good)
