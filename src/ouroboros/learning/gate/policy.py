"""The gate's policy: compare a candidate with its parent, check by check. Numbers in, checks out."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ouroboros.domain.checks import check_number
from ouroboros.domain.probe_scores import ProbeAnswer
from ouroboros.domain.verdict import Attempt, Change, Check, CheckName, ExampleRef, Repair, Verdict
from ouroboros.learning.gate.intervals import compare_answers, compare_means
from ouroboros.learning.replay.probes import Probe, ProbeKind
from ouroboros.learning.replay.reservoir import classify_output

MIN_CLASS_PROBES = 4
"""The fewest probes of a class for which the class has its own check."""

KNOWN_LIKELIHOOD = 0.9
"""Rows whose tokens have this mean probability count as known: they need not gain."""


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """The limits of the gate; docs/decisions/0009-the-gate.md has the measurements behind them.

    tolerance   share of the known answers that an update may lose.
    erosion     the same for the mean probability of a right token, which falls before answers are lost.
    confidence  of the intervals that separate a loss from chance.
    merge_erosion  the same for a merge, where it counts only together with lost answers: a merge makes
                most tokens less likely, and keeps the answers all the same.
    drift       how far answers to unrelated prompts may be from the base's, in nats per token.
    strength    largest norm of the updates, relative to the layers that they are added to.
    """

    tolerance: float = 0.02
    erosion: float = 0.02
    merge_erosion: float = 0.1
    confidence: float = 0.5
    drift: float = 8.0
    strength: float = 1.0

    def check(self) -> None:
        """Raise `InvalidConfig` if a threshold is out of range."""
        check_number("tolerance", self.tolerance, 0.0, 1.0)
        check_number("erosion", self.erosion, 0.0, 1.0)
        check_number("merge_erosion", self.merge_erosion, 0.0, 1.0)
        check_number("confidence", self.confidence, 0.5, 0.999)
        check_number("drift", self.drift, 0.0, 100.0)
        check_number("strength", self.strength, 1e-3, 1e3)


@dataclass(frozen=True, slots=True)
class ProbePair:
    """One probe with the parent's and the candidate's answer; for a merge, `parent` names the parent."""

    probe: Probe
    before: ProbeAnswer
    after: ProbeAnswer
    parent: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of the parent (`before`) and of the candidate (`after`).

    known          probes of what the parent knew; `fresh` ones of what the candidate was trained on.
    gains          for each trained row, how far its wanted output rose plus how far its unwanted one
                   fell, in nats per token.
    likelihood     mean token probability of the trained outputs under the candidate.
    drift_before, drift  distance from the base on unrelated prompts, in nats per token.
    strength       norm of the updates, relative to the layers that they are added to.
    first_answers  for each of `known`, the answer when the probe was first scored.
    diverged       whether the loss of the training rose.
    answered       how many of the trained outputs the candidate answers exactly; None if none is wanted.
    repaired       whether the candidate is a point on the way, or trained again.
    """

    known: Sequence[ProbePair]
    fresh: Sequence[ProbePair]
    gains: Sequence[float]
    likelihood: float
    drift_before: float
    drift: float
    strength: float
    first_answers: Sequence[ProbeAnswer] = ()
    diverged: bool = False
    answered: int | None = None
    repaired: bool = False


def run_checks(evidence: Evidence, policy: GatePolicy) -> tuple[Check, ...]:
    """Run every check that the evidence allows; the candidate passes if all checks pass."""
    if not _all_finite(evidence):
        return (Check(CheckName.FINITE, passed=False),)
    return tuple(_iter_checks(evidence, policy))


def make_attempt(what: str, checks: Sequence[Check]) -> Attempt:
    """Record a judged candidate by a description and the names of the checks that it failed."""
    return Attempt(what, tuple(dict.fromkeys(c.name for c in checks if not c.passed)))


def make_verdict(
    checks: tuple[Check, ...],
    policy: GatePolicy,
    attempts: tuple[Attempt, ...],
    seconds: float,
    share: float = 1.0,
    repair: Repair | None = None,
) -> Verdict:
    """The verdict on the last of these attempts, which `checks` are of; `repair` is how it was made."""
    promoted = all(check.passed for check in checks)
    return Verdict(
        promoted=promoted,
        checks=checks,
        attempts=attempts,
        share=share,
        tolerance=policy.tolerance,
        confidence=policy.confidence,
        seconds=seconds,
        saved_by=repair if promoted else None,
    )


def _all_finite(evidence: Evidence) -> bool:
    answers = [pair.after.likelihood for pair in (*evidence.known, *evidence.fresh)]
    return all(map(math.isfinite, [*answers, *evidence.gains, evidence.drift, evidence.strength]))


def _iter_checks(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    strength, drift = evidence.strength, evidence.drift
    yield Check(CheckName.FINITE, passed=True)
    yield Check(CheckName.DIFFERS, strength > 0, strength)
    yield Check(CheckName.STRENGTH, strength <= policy.strength, strength, policy.strength)
    if evidence.gains:  # a merge has none: it was not trained
        yield _check_arrived(evidence, policy)
    # A candidate may stay beyond the limit if its parent is there, but may not drift further.
    yield Check(CheckName.DRIFT, drift <= max(policy.drift, evidence.drift_before), drift, policy.drift)
    yield from _check_retention(evidence.known, policy)
    yield from _check_creep(evidence, policy)


def _check_arrived(evidence: Evidence, policy: GatePolicy) -> Check:
    """Check that trained outputs became more likely, or that they were well known already.

    If the loss rose nothing was learned, however likely single tokens, such as the end, became. And a
    repaired candidate has to answer something of what was trained: else too little of it is left.
    """
    gain = sum(evidence.gains) / max(len(evidence.gains), 1)
    passed = gain > 0 or evidence.likelihood >= KNOWN_LIKELIHOOD
    passed = passed and not evidence.diverged and not (evidence.repaired and evidence.answered == 0)
    answers, likelihood = _compare_pairs(evidence.fresh, policy)
    return Check(CheckName.ARRIVED, passed, gain, answers=answers, likelihood=likelihood)


def _check_retention(known: Sequence[ProbePair], policy: GatePolicy) -> Iterator[Check]:
    pinned = [p for p in known if p.probe.kind is ProbeKind.PINNED]
    others = [p for p in known if p.probe.kind is not ProbeKind.PINNED]
    if pinned:
        yield _check_pinned(pinned, policy)
    # Check each kind of probe and each parent of a merge separately: else gains on what was taught
    # last could make up for losses on the rest.
    for members in _group_pairs(others, lambda p: (p.probe.kind, p.probe.ref.adapter)):
        yield _check_group(CheckName.KNOWN, members, policy)
    for members in _group_pairs(others, lambda p: classify_output(p.probe.example.output)):
        if MIN_CLASS_PROBES <= len(members) < len(others):
            yield _check_group(CheckName.CLASS, members, policy)


def _check_creep(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """Check that small losses, each tolerated, do not add up over versions.

    A parent's accumulated loss does not fail the candidate, unless the candidate adds to it.
    """
    pairs = [replace(p, before=b) for p, b in zip(evidence.known, evidence.first_answers, strict=False)]
    if all(p.before == s.before for p, s in zip(evidence.known, pairs, strict=False)):
        return
    check = _check_group(CheckName.CREEP, pairs, policy)
    worse = sum(p.before.said for p in evidence.known) > sum(p.after.said for p in evidence.known)
    yield replace(check, passed=check.passed or not worse)


def _group_pairs(
    pairs: Sequence[ProbePair], key: Callable[[ProbePair], Hashable]
) -> Iterable[Sequence[ProbePair]]:
    groups: defaultdict[Hashable, list[ProbePair]] = defaultdict(list)
    for pair in pairs:
        groups[key(pair)].append(pair)
    return groups.values()


def _check_group(name: CheckName, pairs: Sequence[ProbePair], policy: GatePolicy) -> Check:
    """Check that right answers, and but for a class their likelihood, fell within tolerance at most."""
    answers, likelihood = _compare_pairs(pairs, policy)
    assert answers is not None and likelihood is not None
    if pairs[0].parent:
        falls = _is_merge_loss(answers, likelihood, policy)
    else:
        falls = answers.is_significant_fall(policy.tolerance)
        if name is not CheckName.CLASS:  # a class has too few probes for a check of its likelihood
            falls = falls or likelihood.is_significant_fall(policy.erosion)
    # Point to one probe where the name of the check does not say which probes it is about.
    first = pairs[0].probe.ref
    needs_example = name is CheckName.CLASS or bool(first.adapter)
    return Check(
        name,
        not falls,
        -answers.mean,
        policy.tolerance,
        answers=answers,
        likelihood=likelihood,
        lost=_lost_refs(pairs),
        like=first if needs_example else None,
        beside=pairs[0].parent if name is CheckName.KNOWN else "",
    )


def _is_merge_loss(answers: Change, likelihood: Change, policy: GatePolicy) -> bool:
    """Whether a merge loses more than the tolerance, and that by more than chance.

    A merge cannot be walked back, so here an interval must show the whole loss: of answers, or of
    likelihood where too few probes were asked for their answers to show it.
    """
    if answers.is_beyond(policy.tolerance):
        return True
    return answers.mean < -policy.tolerance and likelihood.is_beyond(policy.merge_erosion)


def _check_pinned(pairs: Sequence[ProbePair], policy: GatePolicy) -> Check:
    """Check that no right pinned answer was lost; there is no tolerance for these."""
    answers, likelihood = _compare_pairs(pairs, policy)
    lost = _lost_refs(pairs)
    return Check(
        CheckName.PINNED,
        not lost,
        float(len(lost)),
        0.0,
        answers=answers,
        likelihood=likelihood,
        lost=lost,
    )


def _compare_pairs(
    pairs: Sequence[ProbePair], policy: GatePolicy
) -> tuple[Change | None, Change | None]:
    """Compare the right answers and their likelihoods; (None, None) without probes."""
    if not pairs:
        return None, None
    answers = compare_answers(
        [p.before.said for p in pairs], [p.after.said for p in pairs], policy.confidence
    )
    likelihood = compare_means(
        [p.before.likelihood for p in pairs], [p.after.likelihood for p in pairs], policy.confidence
    )
    return answers, likelihood


def _lost_refs(pairs: Sequence[ProbePair]) -> tuple[ExampleRef, ...]:
    return tuple(p.probe.ref for p in pairs if p.before.said and not p.after.said)
