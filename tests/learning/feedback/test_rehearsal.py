"""When feedback is learned by rehearsal, and which rows are repeated."""

import pytest

from ouroboros.domain.config import AdapterConfig, UpdateConfig
from ouroboros.domain.data import Row
from ouroboros.learning.feedback.rehearsal import (
    BURST,
    FEW_PROMPTS,
    MAX_REHEARSED,
    needs_rehearsal,
    rehearsal_config,
    rehearsal_rate,
    sample_known_rows,
)

KNOWN = [Row(f"prompt {i}", "answer") for i in range(3 * MAX_REHEARSED)]


def test_new_adapters_and_bursts_of_feedback_need_rehearsal():
    assert needs_rehearsal(1, FEW_PROMPTS)
    assert not needs_rehearsal(1, FEW_PROMPTS + 1)
    assert not needs_rehearsal(BURST - 1, FEW_PROMPTS + 1)
    assert needs_rehearsal(BURST, FEW_PROMPTS + 1)


def test_an_imported_adapter_with_few_known_prompts_does_not_rehearse():
    assert not needs_rehearsal(1, 0, complete=False)
    assert not needs_rehearsal(BURST, FEW_PROMPTS, complete=False)
    assert needs_rehearsal(BURST, FEW_PROMPTS + 1, complete=False)


def test_excluded_prompts_are_not_repeated():
    few = KNOWN[:3]
    assert {row.prompt for row in sample_known_rows(few, {"prompt 1"}, MAX_REHEARSED, 0)} == {
        "prompt 0",
        "prompt 2",
    }


def test_the_seed_chooses_the_sample():
    sample = sample_known_rows(KNOWN, (), MAX_REHEARSED, 1)
    assert len({row.prompt for row in sample}) == MAX_REHEARSED
    assert (
        sample
        == sample_known_rows(KNOWN, (), MAX_REHEARSED, 1)
        != sample_known_rows(KNOWN, (), MAX_REHEARSED, 2)
    )


@pytest.mark.parametrize("rows", [1, 3, 32])
def test_each_step_has_all_feedback_rows_and_at_least_as_many_known_ones(rows: int):
    update = UpdateConfig(max_steps=20, likely=0.7)
    training = rehearsal_config(rows, 5, update)
    training.check()
    assert training.count_steps(rows, 1_000_000) == 20
    assert training.until == 0.7
    assert training.replay * rows >= max(8, rows)
    assert training.anchors * rows >= 4


def test_a_rehearsal_has_a_lower_rate_than_a_training():
    config = AdapterConfig()
    assert 0 < rehearsal_rate(config).learning_rate < config.learning_rate
