"""When a row counts as learned, and what to say when it was not."""

import math
from collections.abc import Sequence

from ouroboros.backend.local.training.rows import StepStats, TokenizedRow
from ouroboros.domain.data import Row

MOVED = math.log(2)
"""How far, times the row's weight, a judged answer's log-probability has to move: to half or double."""

CERTAIN = 0.9
"""A praised answer whose tokens all have this probability needs no more praise."""


SCORE_TOLERANCE = 0.004
"""How close, in nats, a scored answer comes to its target; a tenth of the way where that is less."""


def is_scored(row: Row) -> bool:
    """Whether a row is one answer with a score, whose log-probability moves by ln 2 times the score."""
    return row.loss.uses_reference and not row.loss.uses_pair


def score_target(item: TokenizedRow) -> float:
    """The log-probability that a scored answer, which has its reference, is to have.

    Praise raises tokens to `CERTAIN` at most: what has a probability of 0.8 cannot double.
    """
    (reference,), change = item.reference[:1], MOVED * item.row.weight
    if item.row.output is None:
        return reference - change
    certain = len(item.sequences[0].output) * math.log(CERTAIN)
    return min(reference + change, max(reference, certain))


def score_tolerance(item: TokenizedRow) -> float:
    """How close to its target a scored answer has to come."""
    return min(SCORE_TOLERANCE, 0.1 * MOVED * item.row.weight)


def gaps(items: Sequence[TokenizedRow], found: StepStats, likely: float) -> list[float]:
    """How far, in nats, each of a step's first items is from being learned: 0 once it is.

    `likely` is the probability that each token of a wanted answer has to have.
    """
    judged = zip(items, found.totals, found.least, strict=False)
    return [max(_gap(item, totals, least, likely), 0.0) for item, totals, least in judged]


def advice(waiting: int, steps: int) -> str:
    """What to tell of rows that are still waited for after so many steps."""
    if not waiting:
        return ""
    return f"{waiting} rows were not fully learned within {steps} steps; give that feedback again."


def _gap(item: TokenizedRow, totals: Sequence[float], least: float, likely: float) -> float:
    """A wanted answer is to be said, a better one to gain on the worse, a judged one to move."""
    row, enough = item.row, MOVED * item.row.weight
    if is_scored(row):
        distance = abs(score_target(item) - totals[0])
        return distance if distance > score_tolerance(item) else 0.0
    moved = [now - before for now, before in zip(totals, item.reference, strict=True)]
    unsaid = _logit(math.log(likely)) - _logit(least)
    if row.loss.uses_pair:
        return max(unsaid, enough - (moved[0] - moved[1]))
    if not row.loss.accepts_rejected_only:
        return unsaid
    if row.output is None:
        return enough + moved[0]
    return min(enough - moved[0], _logit(math.log(CERTAIN)) - _logit(least))


def _logit(logprob: float) -> float:
    """Log-odds: along a step they change evenly, where a probability levels off."""
    return logprob - math.log(max(-math.expm1(logprob), 1e-12))
