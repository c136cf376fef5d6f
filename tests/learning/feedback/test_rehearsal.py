"""When judgements are learned by repeating what is known, and what is repeated."""

import pytest

from ouroboros.domain.config import AdapterConfig, UpdateConfig
from ouroboros.domain.data import Row
from ouroboros.learning.feedback.rehearsal import (
    FEW,
    MANY,
    REPEATED,
    choose_rows,
    needs_rehearsal,
    rehearsal_config,
    rehearsal_rate,
)

KNOWN = [Row(f"prompt {i}", "answer") for i in range(3 * REPEATED)]


def test_the_young_and_the_overwhelmed_rehearse():
    assert needs_rehearsal(1, FEW)
    assert not needs_rehearsal(1, FEW + 1)
    assert not needs_rehearsal(MANY - 1, FEW + 1)
    assert needs_rehearsal(MANY, FEW + 1)


def test_who_came_from_elsewhere_has_too_little_to_repeat():
    assert not needs_rehearsal(1, 0, whole=False)
    assert not needs_rehearsal(MANY, FEW, whole=False)
    assert needs_rehearsal(MANY, FEW + 1, whole=False)


def test_what_is_judged_is_not_repeated():
    few = KNOWN[:3]
    assert {row.prompt for row in choose_rows(few, {"prompt 1"}, REPEATED, 0)} == {
        "prompt 0",
        "prompt 2",
    }


def test_of_much_that_is_known_a_choice_is_repeated_which_the_seed_tells():
    some = choose_rows(KNOWN, (), REPEATED, 1)
    assert len({row.prompt for row in some}) == REPEATED
    assert some == choose_rows(KNOWN, (), REPEATED, 1) != choose_rows(KNOWN, (), REPEATED, 2)


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_each_step_has_all_judged_rows_and_as_many_known_ones(rows: int):
    update = UpdateConfig(max_steps=20, likely=0.7)
    training = rehearsal_config(rows, 5, update)
    training.check()
    assert training.count_steps(rows, 1_000_000) == 20
    assert training.until == 0.7
    assert training.replay * rows >= max(8, rows)
    assert training.anchors * rows >= 4


def test_a_rehearsal_is_gentler_than_a_training():
    config = AdapterConfig()
    assert 0 < rehearsal_rate(config).learning_rate < config.learning_rate
