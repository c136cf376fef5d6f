"""What new rows and replayed ones count for beside each other."""

from collections import defaultdict

import pytest

from ouroboros.domain.data import Row
from ouroboros.domain.losses import Supervised
from ouroboros.learning.replay.class_weights import (
    DISTILLATION_WEIGHT,
    MAX_CLASS_WEIGHT,
    balance_classes,
)


def rows(output: str, count: int, weight: float = 1.0) -> list[Row]:
    return [Row(f"{output} {i}", output, weight=weight) for i in range(count)]


def test_where_nothing_is_known_rows_stay_as_they_are():
    new = rows("red", 3)
    assert balance_classes(new, [], 2.0) == (tuple(new), ())


def test_in_an_epoch_every_class_counts_alike():
    new, known = rows("red", 20), [*rows("blue", 5), *rows("green", 10)]
    balanced, replay = balance_classes(new, known, 2.0)
    turns = 2.0 * len(new) / len(known)
    counted: defaultdict[str, float] = defaultdict(float)
    for row, each in [*((r, 1.0) for r in balanced), *((r, turns) for r in replay)]:
        counted[row.output or ""] += each * row.weight
    assert counted["red"] == pytest.approx(counted["blue"]) == pytest.approx(counted["green"])


def test_a_rare_class_is_raised_only_so_far_and_a_rows_own_weight_stays():
    balanced, _ = balance_classes(
        [*rows("red", 100), *rows("odd", 1, weight=0.5)], rows("blue", 100), 1.0
    )
    assert balanced[0].weight == pytest.approx(1.0, abs=0.02)
    assert balanced[-1].weight == pytest.approx(0.5 * MAX_CLASS_WEIGHT)


def test_new_rows_are_held_by_what_is_known_and_replayed_ones_are_not():
    balanced, replay = balance_classes(rows("red", 2), rows("blue", 2), 1.0)
    assert {row.loss for row in balanced} == {Supervised(DISTILLATION_WEIGHT)}
    assert {row.loss for row in replay} == {Supervised()}
