"""What new rows and replayed ones count for beside each other."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ouroboros.domain.data import Row
from ouroboros.domain.losses import Supervised
from ouroboros.learning.replay.reservoir import classify_output

DISTILLATION_WEIGHT = 3.0
"""How much it counts that new rows leave as it was what would be said instead: decision 9 has it."""

MAX_CLASS_WEIGHT = 4.0
"""A row of a rare class counts for as many of the commonest at most."""


def balance_classes(
    new: Sequence[Row], known: Sequence[Row], share: float
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Supervised rows to learn and to replay, weighted so that in an epoch all classes count alike.

    `share` known rows join for each new one. Where something is known, new rows are also held by it.
    """
    if not known:
        return tuple(new), ()
    turns = share * len(new) / len(known)
    mass: defaultdict[str, float] = defaultdict(float)
    for rows, each in ((new, 1.0), (known, turns)):
        for row in rows:
            mass[_classify_row(row)] += each
    most = max(mass.values())

    def raise_weight(row: Row) -> Row:
        return replace(
            row, weight=row.weight * min(most / max(mass[_classify_row(row)], 1e-9), MAX_CLASS_WEIGHT)
        )

    learned = tuple(replace(raise_weight(row), loss=Supervised(DISTILLATION_WEIGHT)) for row in new)
    return learned, tuple(map(raise_weight, known))


def _classify_row(row: Row) -> str:
    return classify_output(row.output or "")
