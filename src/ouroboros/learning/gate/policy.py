"""The gate: a candidate against its parent, check by check. Pure policy: numbers in, checks out."""

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ouroboros.domain.checks import check_number
from ouroboros.domain.probe_scores import ProbeAnswer
from ouroboros.domain.verdict import Attempt, Change, Check, CheckName, ExampleRef, Repair, Verdict
from ouroboros.learning.gate.intervals import change_of_answers, change_of_means
from ouroboros.learning.replay.probes import Probe, ProbeKind
from ouroboros.learning.replay.reservoir import class_of

LEAST_OF_CLASS = 4
"""Probes of one class from which on it is looked at by itself."""

KNOWN_ALREADY = 0.9
"""Rows whose tokens have this probability have nothing more to gain."""


@dataclass(frozen=True, slots=True)
class GatePolicy:
    """What is tolerated; docs/decisions/0009-the-gate.md says what was measured and what chosen.

    tolerance   the share of known answers that an update may lose, beyond chance.
    erosion     the same for the mean probability of a right token, which falls before answers do.
    confidence  of the intervals that tell a fall from chance.
    drift       how far plain exchanges may be from the base's, in nats per token.
    strength    norm of the updates over that of the layers they are added to, at most.
    """

    tolerance: float = 0.02
    erosion: float = 0.02
    confidence: float = 0.5
    drift: float = 8.0
    strength: float = 1.0

    def check(self) -> None:
        check_number("tolerance", self.tolerance, 0.0, 1.0)
        check_number("erosion", self.erosion, 0.0, 1.0)
        check_number("confidence", self.confidence, 0.5, 0.999)
        check_number("drift", self.drift, 0.0, 100.0)
        check_number("strength", self.strength, 1e-3, 1e3)


@dataclass(frozen=True, slots=True)
class Pair:
    """One probe, as the parent and as the candidate answers it; a merge has several, `by` names one."""

    probe: Probe
    before: ProbeAnswer
    after: ProbeAnswer
    by: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured of parent (`before`) and candidate (`after`).

    known       probes of what the parent was taught; `fresh` ones of what the candidate was.
    arrived     how far each trained row's wanted output rose and its unwanted one fell, nats per token.
    likelihood  mean token probability, under the candidate, of the outputs that were to rise.
    drift_before, drift, strength  on the anchors, and of the weights.
    learned     the answers to `known` as they were when each was asked first.
    """

    known: Sequence[Pair]
    fresh: Sequence[Pair]
    arrived: Sequence[float]
    likelihood: float
    drift_before: float
    drift: float
    strength: float
    learned: Sequence[ProbeAnswer] = ()


def judge(evidence: Evidence, policy: GatePolicy) -> tuple[Check, ...]:
    """Every check that the evidence allows; the candidate passes if all of them do."""
    if not _finite(evidence):
        return (Check(CheckName.FINITE, passed=False),)
    return tuple(_checks(evidence, policy))


def attempt(what: str, checks: Sequence[Check]) -> Attempt:
    """What was judged, and the names of the checks that it failed."""
    return Attempt(what, tuple(dict.fromkeys(c.name for c in checks if not c.passed)))


def conclude(
    checks: tuple[Check, ...],
    policy: GatePolicy,
    attempts: tuple[Attempt, ...],
    seconds: float,
    share: float = 1.0,
    repair: Repair | None = None,
) -> Verdict:
    """The verdict that checks come to, after these attempts of which they judge the last, a `repair`."""
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


def _finite(evidence: Evidence) -> bool:
    answers = [pair.after.likelihood for pair in (*evidence.known, *evidence.fresh)]
    return all(map(math.isfinite, [*answers, *evidence.arrived, evidence.drift, evidence.strength]))


def _checks(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    strength, drift = evidence.strength, evidence.drift
    yield Check(CheckName.FINITE, passed=True)
    yield Check(CheckName.DIFFERS, strength > 0, strength)
    yield Check(CheckName.STRENGTH, strength <= policy.strength, strength, policy.strength)
    if evidence.arrived:  # a merge was not trained
        yield _arrived(evidence, policy)
    # A parent that is further out already may stay there, but no child of it may go on.
    yield Check(CheckName.DRIFT, drift <= max(policy.drift, evidence.drift_before), drift, policy.drift)
    yield from _retention(evidence.known, policy)
    yield from _crept(evidence, policy)


def _arrived(evidence: Evidence, policy: GatePolicy) -> Check:
    """What was trained became likelier, or was known well already."""
    gain = sum(evidence.arrived) / max(len(evidence.arrived), 1)
    passed = gain > 0 or evidence.likelihood >= KNOWN_ALREADY
    answers, likelihood = _changes(evidence.fresh, policy)
    return Check(CheckName.ARRIVED, passed, gain, answers=answers, likelihood=likelihood)


def _retention(known: Sequence[Pair], policy: GatePolicy) -> Iterator[Check]:
    pinned = [p for p in known if p.probe.kind is ProbeKind.PINNED]
    others = [p for p in known if p.probe.kind is not ProbeKind.PINNED]
    if pinned:
        yield _pinned(pinned, policy)
    # Each kind by itself: what was taught last would pay for what teaching it cost. And each parent of a
    # merge, for the same reason.
    for members in _grouped(others, lambda p: (p.probe.kind, p.probe.place.adapter)):
        yield _group(CheckName.KNOWN, members, policy)
    for members in _grouped(others, lambda p: class_of(p.probe.example.output)):
        if LEAST_OF_CLASS <= len(members) < len(others):
            yield _group(CheckName.CLASS, members, policy)


def _crept(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """Falls that each passed may not add up. What crept before may stay there, but not go on."""
    since = [replace(p, before=b) for p, b in zip(evidence.known, evidence.learned, strict=False)]
    if all(p.before == s.before for p, s in zip(evidence.known, since, strict=False)):
        return
    check = _group(CheckName.CREEP, since, policy)
    worse = sum(p.before.said for p in evidence.known) > sum(p.after.said for p in evidence.known)
    yield replace(check, passed=check.passed or not worse)


def _grouped(pairs: Sequence[Pair], key: Callable[[Pair], Hashable]) -> Iterable[Sequence[Pair]]:
    found: defaultdict[Hashable, list[Pair]] = defaultdict(list)
    for pair in pairs:
        found[key(pair)].append(pair)
    return found.values()


def _group(name: CheckName, pairs: Sequence[Pair], policy: GatePolicy) -> Check:
    """Neither may the right answers fall beyond tolerance nor, of all together, their likelihood."""
    answers, likelihood = _changes(pairs, policy)
    assert answers is not None and likelihood is not None
    falls = answers.is_significant_fall(policy.tolerance)
    first, told = pairs[0].probe.place, name is CheckName.CLASS
    if name is not CheckName.CLASS:
        falls = falls or likelihood.is_significant_fall(policy.erosion)
        told = bool(first.adapter)
    return Check(
        name,
        not falls,
        -answers.mean,
        policy.tolerance,
        answers=answers,
        likelihood=likelihood,
        lost=_lost(pairs),
        like=first if told else None,
        beside=pairs[0].by if name is CheckName.KNOWN else "",
    )


def _pinned(pairs: Sequence[Pair], policy: GatePolicy) -> Check:
    """No pinned answer that was right may be lost: chance is no excuse here."""
    answers, likelihood = _changes(pairs, policy)
    lost = _lost(pairs)
    return Check(
        CheckName.PINNED,
        not lost,
        float(len(lost)),
        0.0,
        answers=answers,
        likelihood=likelihood,
        lost=lost,
    )


def _changes(pairs: Sequence[Pair], policy: GatePolicy) -> tuple[Change | None, Change | None]:
    """Of the answers, and of their likelihood; None where there are no probes."""
    if not pairs:
        return None, None
    answers = change_of_answers(
        [p.before.said for p in pairs], [p.after.said for p in pairs], policy.confidence
    )
    likelihood = change_of_means(
        [p.before.likelihood for p in pairs], [p.after.likelihood for p in pairs], policy.confidence
    )
    return answers, likelihood


def _lost(pairs: Sequence[Pair]) -> tuple[ExampleRef, ...]:
    return tuple(p.probe.place for p in pairs if p.before.said and not p.after.said)
