"""Weights of new and replayed rows in one training."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from ouroboros.domain.data import Row
from ouroboros.domain.losses import Supervised
from ouroboros.learning.replay.reservoir import classify_output

DISTILLATION_WEIGHT = 3.0
"""Weight, on new rows, of keeping the parent's probabilities of all other tokens (decision 9)."""

MAX_CLASS_WEIGHT = 4.0
"""A row of a rare class has at most this many times the weight of a row of the most common class."""


def balance_classes(
    new: Sequence[Row], known: Sequence[Row], share: float
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Weight supervised rows so that in an epoch all classes have the same total weight.

    `share` known rows are replayed for each new row. If anything is known, new rows are also distilled
    from the parent. Returns the rows to learn and the rows to replay.
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
