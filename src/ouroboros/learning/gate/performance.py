"""Judgements as a measure of the versions that answered, and when they say that a new head is worse."""

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from math import comb

from ouroboros.domain.events import Event, FeedbackGiven
from ouroboros.domain.feedback import FeedbackKind
from ouroboros.domain.performance import UsageCounts

FIRST_LOOK = 4
"""Judgements of what is new before it is compared for the first time."""

SPLITS = 8
"""Versions back from the head at which the line is cut in two and compared."""

RECENT = 20
"""Judgements that a trend compares with those before."""


Heard = tuple[int, bool]
"""A judgement: its place in the journal, and whether it was good."""


class PerformanceTracker:
    """One adapter's judgements, counted by the version that answered. `read_to` is the last event read.

    `heard` has the judgements of each version in their order, of each named user only the first: what
    may move a head must not be one user's doing.
    """

    def __init__(self, born: int) -> None:
        self.read_to = born
        self.uses: dict[str, UsageCounts] = {}
        self.heard: defaultdict[str, list[Heard]] = defaultdict(list)
        self._users: defaultdict[str, set[str]] = defaultdict(set)
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._all = UsageCounts()

    def take(self, number: int, event: Event) -> None:
        """Count the journal's next event, if it judges an answer of a known version."""
        self.read_to = number
        if not isinstance(event, FeedbackGiven) or event.answered is None:
            return
        good = is_positive(event)
        if good is None:
            return
        one = UsageCounts(int(good), int(not good), event.at, event.at)
        self.uses[event.answered] = self.uses.get(event.answered, UsageCounts()) + one
        self._all += one
        self._recent.append(good)
        known = self._users[event.answered]
        if event.user not in known:
            self.heard[event.answered].append((number, good))
        if event.user is not None:
            known.add(event.user)

    @property
    def trend(self) -> str:
        """The latest judgements against those before."""
        late = UsageCounts(sum(self._recent), len(self._recent) - sum(self._recent))
        early = UsageCounts(self._all.good - late.good, self._all.bad - late.bad)
        if late.judged < RECENT or early.judged < RECENT:
            return ""
        if chance_of_worse(late, early) < 0.025:
            return "falling"
        return "rising" if chance_of_worse(early, late) < 0.025 else "steady"


def is_positive(event: FeedbackGiven) -> bool | None:
    """Whether a judgement says that the answer was right; None if it says neither."""
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
            said = event.generation.strip()
            if said == (signal.rejected or "").strip():
                return False
            return True if said == (signal.text or "").strip() else None
        case _:
            return None


def chance_of_worse(after: UsageCounts, before: UsageCounts) -> float:
    """How likely so few good ones would be `after`, were it as good as `before`: Fisher's exact test.

    One-sided; exact for any number of judgements. 1 if either side has none.
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
    """The line is worse since its version number `cut`, counted from the head."""

    cut: int
    after: UsageCounts
    before: UsageCounts
    chance: float


def find_regression(line: Sequence[Sequence[Heard]], level: float, at: int) -> Regression | None:
    """Whether to go back, and how far, now that the event `at` has been heard.

    `line` holds what was heard of each version, from the head on, parent by parent. It is cut before
    each of its last versions, and what came after the cut is compared with what came before. Comparing
    again and again finds differences where there are none, so a cut is looked at only by the event that
    doubles its judgements, each time at half the level, which is also shared out among the cuts: a line
    that is no worse is gone back from with a probability of at most `level`, ever.
    """
    for cut in range(1, min(len(line), SPLITS + 1)):
        after = sorted(h for h in chain(*line[:cut]) if h[0] <= at)
        looks = (len(after) // FIRST_LOOK).bit_length()
        if not looks or after[-1][0] != at or len(after) != FIRST_LOOK * 2 ** (looks - 1):
            continue
        before = count([h for h in chain(*line[cut:]) if h[0] < at])
        chance = chance_of_worse(count(after), before)
        if chance < level / SPLITS / 2**looks:
            return Regression(cut, count(after), before, chance)
    return None


def count(heard: Sequence[Heard]) -> UsageCounts:
    good = sum(good for _, good in heard)
    return UsageCounts(good, len(heard) - good)
