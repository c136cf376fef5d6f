"""Whether a merge was worth it."""

from datetime import UTC, datetime

import pytest

from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Version
from ouroboros.learning.merging import check_distinct, merge_advice, weigh


def version(name: str, number: int) -> Version:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Version(AdapterId(name), number, "d" * 64, 1, None, "created", moment)


def test_the_same_version_twice_is_refused():
    with pytest.raises(InvalidConfig, match="tickets@2 is named twice"):
        check_distinct([version("tickets", 2), version("moods", 1), version("tickets", 2)])


def test_two_versions_of_one_adapter_may_be_merged():
    check_distinct([version("tickets", 1), version("tickets", 2)])


def test_advice_names_the_parent_that_is_better_alone():
    advice = merge_advice(0.5, {"tickets@2": 0.25, "moods@1": 0.75})
    assert "moods@1 alone answers 75%" in advice
    assert "50%" in advice


@pytest.mark.parametrize("merged", [0.75, 0.9])
def test_there_is_no_advice_when_merging_was_as_good_as_the_best(merged: float):
    assert merge_advice(merged, {"a@1": 0.75, "b@1": 0.5}) == ""


def test_there_is_no_advice_without_probes():
    assert merge_advice(0.0, {}) == ""


def test_performance_weighs_only_where_weights_are_wanted_and_missing():
    plain = MergeRecipe(MergeStrategy.WEIGHTED)
    assert weigh(plain, [0.5, 0.25]).weights == (0.5, 0.25)
    assert weigh(plain, []) == plain
    for recipe in (MergeRecipe(), MergeRecipe(MergeStrategy.WEIGHTED, (1.0, 2.0))):
        assert weigh(recipe, [0.5, 0.25]) == recipe
