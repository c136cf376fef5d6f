"""When a row counts as learned, and what to say when it was not."""

import math
from collections.abc import Sequence

from ouroboros.backend.local.training.rows import StepStats, TokenizedRow

MOVED = math.log(2)
"""How far, times the row's weight, a judged answer's log-probability has to move: to half or double."""

CERTAIN = 0.9
"""A praised answer whose tokens all have this probability needs no more praise."""


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
