"""When a row counts as learned, and what to say when it was not."""

import math
from collections.abc import Sequence

from ouroboros.backend.local.step import Found, Item

MOVED = math.log(2)
"""How far, times the row's weight, a judged answer's log-probability has to move: to half or double."""

CERTAIN = 0.9
"""A praised answer whose tokens all have this probability needs no more praise."""


def waiting_for(items: Sequence[Item], found: Found, likely: float) -> int:
    """How many of a step's first items are not learned yet; `likely` is what a token has to be."""
    judged = zip(items, found.totals, found.least, strict=False)
    return sum(not _learned(item, totals, least, likely) for item, totals, least in judged)


def advice(waiting: int, steps: int) -> str:
    """What to tell of rows that are still waited for after so many steps."""
    if not waiting:
        return ""
    return f"{waiting} rows were not fully learned within {steps} steps; give that feedback again."


def _learned(item: Item, totals: Sequence[float], least: float, likely: float) -> bool:
    """Whether a wanted answer would be said, a better one gained on the worse, a judged one moved."""
    row, enough = item.row, MOVED * item.row.weight
    moved = [now - before for now, before in zip(totals, item.reference, strict=True)]
    if row.loss.uses_pair:
        return least >= math.log(likely) and moved[0] - moved[1] >= enough
    if not row.loss.takes_unwanted:
        return least >= math.log(likely)
    if row.output is None:
        return moved[0] <= -enough
    return moved[0] >= enough or least >= math.log(CERTAIN)
