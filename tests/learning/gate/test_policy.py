"""The gate's judgement, on numbers alone."""

import math
from dataclasses import replace

import pytest

from ouroboros.domain.data import TrainingExample
from ouroboros.domain.probe_scores import ProbeAnswer
from ouroboros.domain.verdict import CheckName, ExampleRef
from ouroboros.learning.gate.policy import Evidence, GatePolicy, ProbePair, run_checks
from ouroboros.learning.gate.walk_back import WalkBack, walking_back_helps
from ouroboros.learning.replay.probes import Probe, ProbeKind

POLICY = GatePolicy()
RIGHT, WRONG = ProbeAnswer(True, 0.95), ProbeAnswer(False, 0.05)


def pair(i, before, after, label="red", kind=ProbeKind.HELD_OUT) -> ProbePair:
    return ProbePair(Probe(ExampleRef(1, i), TrainingExample(f"row {i}", label), kind), before, after)


def pairs(unchanged=0, lost=0, gained=0, start=0, **how) -> list[ProbePair]:
    answers = [(RIGHT, RIGHT)] * unchanged + [(RIGHT, WRONG)] * lost + [(WRONG, RIGHT)] * gained
    return [pair(start + i, *of, **how) for i, of in enumerate(answers)]


def evidence(known=(), **changes) -> Evidence:
    plain = Evidence(known, (), (0.5, 0.1), 0.6, 0.1, 0.2, 0.3)
    return replace(plain, **changes)


def failed_checks(evidence: Evidence, policy: GatePolicy = POLICY) -> set[CheckName]:
    return {check.name for check in run_checks(evidence, policy) if not check.passed}


def test_what_loses_nothing_passes():
    assert not failed_checks(evidence(pairs(unchanged=20)))


def test_an_adapter_that_knew_nothing_cannot_forget():
    assert not failed_checks(evidence())


def test_a_fall_beyond_chance_and_tolerance_fails():
    assert failed_checks(evidence(pairs(unchanged=40, lost=9, gained=1))) == {CheckName.KNOWN}


def test_one_answer_lost_is_tolerated_among_many_and_not_among_few():
    assert not failed_checks(evidence(pairs(unchanged=59, lost=1)))
    assert failed_checks(evidence(pairs(unchanged=9, lost=1))) == {CheckName.KNOWN}


def test_who_asks_for_more_certainty_lets_one_of_ten_pass():
    assert not failed_checks(evidence(pairs(unchanged=9, lost=1)), GatePolicy(confidence=0.8))


def test_likelihood_falls_before_answers_do():
    fading = [pair(i, RIGHT, ProbeAnswer(True, 0.7)) for i in range(20)]
    assert failed_checks(evidence(fading)) == {CheckName.KNOWN}


def mark_as_merge(known: list[ProbePair]) -> list[ProbePair]:
    return [replace(p, parent="red@2") for p in known]


def test_a_merge_that_keeps_the_answers_may_make_their_tokens_less_likely():
    """As on SmolLM2: 8 of 10 probes for 9, right tokens 3.5 points less likely; tests 92% for 96%."""
    fading = [pair(i, RIGHT, ProbeAnswer(True, 0.9)) for i in range(8)]
    fading += [pair(8, RIGHT, ProbeAnswer(False, 0.4)), pair(9, WRONG, WRONG)]
    assert failed_checks(evidence(fading)) == {CheckName.KNOWN}
    assert not failed_checks(evidence(mark_as_merge(fading)))


@pytest.mark.parametrize(("unchanged", "lost"), [(7, 3), (2, 2), (40, 8), (0, 4)])
def test_a_merge_that_loses_more_than_the_tolerance_fails(unchanged, lost):
    known = mark_as_merge(pairs(unchanged=unchanged, lost=lost))
    assert CheckName.KNOWN in failed_checks(evidence(known))


def test_a_merge_within_the_tolerance_of_whole_test_sets_passes():
    assert not failed_checks(evidence(mark_as_merge(pairs(unchanged=94, lost=4, gained=2))))
    assert not failed_checks(evidence(mark_as_merge(pairs(unchanged=57, lost=3))))


def test_a_class_that_is_wiped_out_fails_though_all_together_hardly_fall():
    known = pairs(unchanged=200) + pairs(lost=4, start=500, label="blue")
    checks = run_checks(evidence(known), GatePolicy(tolerance=0.05))
    (wiped,) = [c for c in checks if not c.passed]
    assert wiped.name is CheckName.CLASS
    assert wiped.like == ExampleRef(1, 500)
    assert len(wiped.lost) == 4


def test_one_pinned_answer_lost_fails():
    known = pairs(unchanged=200) + pairs(lost=1, start=500, kind=ProbeKind.PINNED)
    assert failed_checks(evidence(known)) == {CheckName.PINNED}


def test_a_pin_that_was_never_right_is_not_lost():
    assert not failed_checks(evidence([pair(0, WRONG, WRONG, kind=ProbeKind.PINNED)]))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"strength": 0.0}, CheckName.DIFFERS),
        ({"strength": 2.0}, CheckName.STRENGTH),
        ({"gains": (-0.5, 0.1)}, CheckName.ARRIVED),
        ({"diverged": True}, CheckName.ARRIVED),
        ({"repaired": True, "answered": 0}, CheckName.ARRIVED),
        ({"drift": 99.0}, CheckName.DRIFT),
        ({"drift": math.nan}, CheckName.FINITE),
        ({"fresh": [pair(0, WRONG, ProbeAnswer(False, math.nan))]}, CheckName.FINITE),
    ],
)
def test_each_check_fails_by_itself(changes, name):
    assert failed_checks(evidence(pairs(unchanged=20), **changes)) == {name}


def test_what_was_known_already_need_not_arrive():
    assert not failed_checks(evidence(gains=(0.0,), likelihood=0.97))


def test_a_parent_that_is_far_out_may_have_a_child_there_but_not_further():
    assert not failed_checks(evidence(drift_before=50.0, drift=49.0))
    assert failed_checks(evidence(drift_before=50.0, drift=51.0)) == {CheckName.DRIFT}


def test_every_number_is_in_the_verdict():
    (known,) = [c for c in run_checks(evidence(pairs(18, 1, 1)), POLICY) if c.name is CheckName.KNOWN]
    assert known.answers is not None and known.likelihood is not None
    assert (known.answers.rows, known.answers.before, known.answers.after) == (20, 0.95, 0.95)
    assert known.answers.low < 0 < known.answers.high
    assert known.lost == (ExampleRef(1, 18),)


def test_going_less_far_mends_a_fall_but_not_a_thing_that_was_never_learned():
    assert walking_back_helps([CheckName.KNOWN, CheckName.DRIFT])
    assert not walking_back_helps([CheckName.KNOWN, CheckName.ARRIVED])
    assert not walking_back_helps([])


@pytest.mark.parametrize(("border", "expected"), [(0.99, 0.875), (0.6, 0.5), (0.3, 0.25), (0.01, 0.0)])
def test_the_walk_back_finds_the_furthest_eighth_that_passes(border, expected):
    walk = WalkBack()
    while (share := walk.share) is not None:
        walk = walk.narrow(share, share <= border)
    assert walk.passed == expected


def test_what_was_taught_last_does_not_pay_for_what_is_held_out():
    known = pairs(unchanged=20, lost=8) + pairs(gained=40, start=100, kind=ProbeKind.TAUGHT)
    assert failed_checks(evidence(known)) == {CheckName.KNOWN}


def test_falls_that_each_passed_may_not_add_up():
    known = pairs(unchanged=53, lost=1) + [pair(90 + i, WRONG, WRONG) for i in range(6)]
    assert not failed_checks(evidence(known))
    assert failed_checks(evidence(known, first_answers=[RIGHT] * 60)) == {CheckName.CREEP}


def test_what_crept_before_may_stay_there():
    known = pairs(unchanged=14) + [pair(50 + i, WRONG, WRONG) for i in range(6)]
    assert not failed_checks(evidence(known, first_answers=[RIGHT] * 20))


def test_a_repaired_candidate_that_answers_something_or_has_nothing_to_answer_passes():
    assert not failed_checks(evidence(repaired=True, answered=1))
    assert not failed_checks(evidence(repaired=True, answered=None))
