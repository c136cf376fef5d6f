"""Whether a merge was worth it."""

from datetime import UTC, datetime

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidConfig
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId
from ouroboros.domain.probe_scores import ProbeAnswer
from ouroboros.domain.records import Version
from ouroboros.domain.verdict import ExampleRef, Verdict
from ouroboros.learning.gate.policy import Evidence, GatePolicy, ProbePair, run_checks
from ouroboros.learning.merging.checks import (
    check_distinct,
    explain_failed_merge,
    fill_weights,
    find_best_parents,
    make_given_probes,
)
from ouroboros.learning.replay.probes import Probe, ProbeKind


def version(name: str, number: int) -> Version:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return Version(AdapterId(name), number, "d" * 64, 1, None, "created", moment)


def test_the_same_version_twice_is_refused():
    with pytest.raises(InvalidConfig, match="tickets@2 is named twice"):
        check_distinct([version("tickets", 2), version("moods", 1), version("tickets", 2)])


def test_two_versions_of_one_adapter_may_be_merged():
    check_distinct([version("tickets", 1), version("tickets", 2)])


def probe(row: int, adapter: str = "") -> Probe:
    return Probe(
        ExampleRef(1, row, adapter), TrainingExample(f"{adapter} {row}", "x"), ProbeKind.HELD_OUT
    )


def test_the_best_parent_is_found_for_each_ones_probes_and_for_those_given():
    """By right answers, then by their likelihood, then by order."""
    probes = [
        probe(0, "a"),
        probe(1, "a"),
        probe(0, "b"),
        *make_given_probes([TrainingExample("?", "x")]),
    ]
    mine, theirs = ProbeAnswer(True, 0.9), ProbeAnswer(False, 0.6)
    answers = {
        "a@2": dict(zip((p.ref for p in probes), (mine, theirs, theirs, mine), strict=True)),
        "b@2": dict(zip((p.ref for p in probes), (theirs, theirs, mine, mine), strict=True)),
    }
    assert find_best_parents(probes, answers) == {"a": "a@2", "b": "b@2", "": "a@2"}


def verdict_on(*pairs: ProbePair) -> Verdict:
    checks = run_checks(Evidence(pairs, (), (), 0.0, 0.1, 0.1, 0.1), GatePolicy())
    return Verdict(all(c.passed for c in checks), checks, (), 1.0, 0.02, 0.8, 0.0)


def pairs(adapter: str, right: int, of: int = 10) -> list[ProbePair]:
    """Probes that the best parent answers all, and the merge `right` of."""
    after = [ProbeAnswer(True, 0.9)] * right + [ProbeAnswer(False, 0.1)] * (of - right)
    return [
        ProbePair(probe(row, adapter), ProbeAnswer(True, 0.9), answer, f"{adapter}@2")
        for row, answer in enumerate(after)
    ]


def test_advice_names_the_parent_that_is_better_alone_with_the_numbers():
    advice = explain_failed_merge("both", verdict_on(*pairs("tickets", 4), *pairs("moods", 10)))
    assert advice.startswith("Merging did not help: of 10 probes tickets@2 gets 10 right and both 4.")
    assert "moods" not in advice
    assert "Route instead" in advice


def test_one_parents_gain_does_not_pay_for_anothers_loss():
    gained = [
        ProbePair(probe(row, "b"), ProbeAnswer(False, 0.1), ProbeAnswer(True, 0.9), "b@2")
        for row in range(50)
    ]
    assert not verdict_on(*pairs("a", 5), *gained).promoted


def test_there_is_no_advice_when_merging_lost_nothing():
    assert explain_failed_merge("both", verdict_on(*pairs("tickets", 10), *pairs("moods", 10))) == ""


def test_advice_tells_a_loss_of_likelihood_beside_one_lost_answer():
    faded = [
        ProbePair(p.probe, p.before, ProbeAnswer(row > 0, 0.7), p.parent)
        for row, p in enumerate(pairs("tickets", 10))
    ]
    assert "right tokens 20.0 points less likely" in explain_failed_merge("both", verdict_on(*faded))


def test_a_merge_that_keeps_all_answers_may_make_them_less_likely():
    faded = [
        ProbePair(p.probe, p.before, ProbeAnswer(True, 0.7), p.parent) for p in pairs("tickets", 10)
    ]
    assert verdict_on(*faded).promoted


def test_performance_weighs_only_where_weights_are_wanted_and_missing():
    plain = MergeRecipe(MergeStrategy.WEIGHTED)
    assert fill_weights(plain, [0.5, 0.25]).weights == (0.5, 0.25)
    assert fill_weights(plain, []) == plain
    for recipe in (MergeRecipe(), MergeRecipe(MergeStrategy.WEIGHTED, (1.0, 2.0))):
        assert fill_weights(recipe, [0.5, 0.25]) == recipe
