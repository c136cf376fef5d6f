"""One candidate before the gate: what is measured of it and of its parent."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from statistics import fmean

from ouroboros.backend.base import Backend, Score, ScoreRequest, TrainOutcome
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import Row
from ouroboros.domain.probe_scores import ProbeAnswer, ProbeScores
from ouroboros.domain.verdict import Attempt, Check, ExampleRef, Repair, Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.learning.gate.policy import (
    Evidence,
    GatePolicy,
    ProbePair,
    make_attempt,
    make_verdict,
    run_checks,
)
from ouroboros.learning.gate.walk_back import WalkBack, walking_back_helps
from ouroboros.learning.replay.anchors import DRIFT_ANCHORS
from ouroboros.learning.replay.probes import Probe, ProbeKind, choose_first_probes

SAMPLED_ROWS = 32
"""Trained rows, at most, that are scored to see whether they were learned."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """The outcome of training `rows` on `start`, the parent's files, and the probes that judge it.

    probes  what the parent knows; the `fresh` ones were held out of this training.
    small   an update by a few rows: judging it must not take longer than training it.
    """

    start: AdapterFiles
    outcome: TrainOutcome
    rows: Sequence[Row]
    probes: Sequence[Probe]
    fresh: Sequence[Probe] = ()
    small: bool = False


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """A candidate with its verdict: as trained, repaired, or refused; and its scores on the probes."""

    outcome: TrainOutcome
    verdict: Verdict
    probe_scores: ProbeScores


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What was measured of one version: its answers to probes, by place, the log-probability per token
    of each row's outputs, its drift on the anchors, in nats (NaN while unknown), and whether it answers
    each row with the row's first output."""

    answers: dict[ExampleRef, ProbeAnswer]
    rows: tuple[tuple[float, ...], ...]
    drift: float
    rows_answered: tuple[bool, ...] = ()

    def merge(self, other: "EvalResult") -> "EvalResult":
        """Return both results in one: what was measured first, and what else was measured later."""
        return EvalResult(
            self.answers | other.answers,
            self.rows or other.rows,
            other.drift if math.isnan(self.drift) else self.drift,
            self.rows_answered or other.rows_answered,
        )

    def share_correct(self, probes: Sequence[Probe]) -> float:
        """Return the share of probes that were answered exactly."""
        return fmean(self.answers[p.ref].said for p in probes)


class CandidateEvaluation:
    """Measures and judges one candidate, and points between its parent and it."""

    def __init__(
        self,
        backend: Backend,
        policy: GatePolicy,
        candidate: Candidate,
        parent: ProbeScores,
        cancel: CancellationToken | None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._candidate = candidate
        self._cancel = cancel
        self._rows = _sample_rows(candidate.rows)
        self._probes = _valid_probes(candidate)
        self._answers_when_learned = parent.learned_by_probe()
        self._parent = EvalResult(
            parent.answers_by_probe(), (), math.nan if parent.drift is None else parent.drift
        )
        self._attempts: tuple[Attempt, ...] = ()
        self._seconds = 0.0

    async def judge(
        self, outcome: TrainOutcome, what: str, share: float = 1.0, repair: Repair | None = None
    ) -> JudgedCandidate:
        """Judge files, and record the attempt in the verdict."""
        began = time.perf_counter()
        probes = self._first_probes()
        repaired = repair is not None
        checks, result = await self._run_checks(outcome, probes, repaired)
        if len(probes) < len(self._probes) and _needs_all_probes(checks):
            checks, result = await self._run_checks(outcome, self._probes, repaired)
        self._attempts += (make_attempt(what, checks),)
        self._seconds += time.perf_counter() - began
        verdict = make_verdict(checks, self._policy, self._attempts, self._seconds, share, repair)
        return JudgedCandidate(
            outcome,
            verdict,
            make_probe_scores(outcome.files.digest, result, self._first_answers(result)),
        )

    async def walk_back(
        self, refused: JudgedCandidate, repair: Repair = Repair.WALKED
    ) -> JudgedCandidate:
        """Return the furthest point from the parent that passes; `refused` if none does."""
        if not walking_back_helps([check.name for check in refused.verdict.failed_checks]):
            return refused
        best, walk = refused, WalkBack()
        while (share := walk.share) is not None:
            files = await self._backend.interpolate(self._candidate.start, refused.outcome.files, share)
            outcome = replace(refused.outcome, files=files)
            judged = await self.judge(outcome, f"{share:.1%} of the way", share, repair)
            walk = walk.narrow(share, judged.verdict.promoted)
            best = judged if judged.verdict.promoted else best
        return self.add_attempts(best)

    def add_attempts(self, judged: JudgedCandidate) -> JudgedCandidate:
        """Return the candidate with every attempt so far in its verdict."""
        verdict = replace(judged.verdict, attempts=self._attempts, seconds=self._seconds)
        return replace(judged, verdict=verdict)

    async def _run_checks(
        self, outcome: TrainOutcome, probes: Sequence[Probe], repaired: bool
    ) -> tuple[tuple[Check, ...], EvalResult]:
        """Measure the candidate, and what is not known of the parent yet; and run the checks."""
        # 1. Measure both in one pass of the backend.
        files = outcome.files
        all_probes = (*probes, *self._candidate.fresh)
        missing = self._missing_from_parent(all_probes)
        batches = [ProbeBatch(files, all_probes, self._rows), *([missing] if missing else [])]
        result, *parents = await evaluate_probes(self._backend, batches, self._cancel)
        for parent in parents:
            self._parent = self._parent.merge(parent)
        before = self._parent
        # 2. Compare, probe by probe and row by row.
        pairs = [ProbePair(p, before.answers[p.ref], result.answers[p.ref]) for p in all_probes]
        evidence = Evidence(
            known=pairs[: len(probes)],
            first_answers=[self._answers_when_learned.get(p.ref, before.answers[p.ref]) for p in probes],
            fresh=pairs[len(probes) :],
            gains=[
                _measure_gain(*scores)
                for scores in zip(self._rows, before.rows, result.rows, strict=True)
            ],
            likelihood=_mean_likelihood(self._rows, result),
            drift_before=before.drift,
            drift=result.drift,
            strength=await self._backend.measure_strength(files),
            diverged=outcome.report.diverged and not self._candidate.small,
            answered=_count_answered(self._rows, result),
            repaired=repaired and not self._candidate.small,
        )
        return run_checks(evidence, self._policy), result

    def _missing_from_parent(self, probes: Sequence[Probe]) -> "ProbeBatch | None":
        """What is not measured of the parent yet; None if all is."""
        known = self._parent
        missing = [p for p in probes if p.ref not in known.answers]
        rows, drift = () if known.rows else self._rows, math.isnan(known.drift)
        if not (missing or rows or drift):
            return None
        return ProbeBatch(self._candidate.start, missing, rows, drift)

    def _first_answers(self, result: EvalResult) -> dict[ExampleRef, ProbeAnswer]:
        """The answers to all probes as they were when each was asked first."""
        known = self._parent.answers | self._answers_when_learned
        first = {p.ref: known[p.ref] for p in self._probes if p.ref in known}
        return first | {p.ref: result.answers[p.ref] for p in self._candidate.fresh}

    def _first_probes(self) -> Sequence[Probe]:
        """All probes; for a small update every pin, and a few others of every class."""
        if not self._candidate.small:
            return self._probes
        answered = {ref for ref, answer in self._parent.answers.items() if answer.said}
        return choose_first_probes(self._probes, answered, self._candidate.start.digest)


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """What to measure of a version: its answers to probes, its scores of rows, and its drift."""

    files: AdapterFiles
    probes: Sequence[Probe]
    rows: Sequence[Row] = ()
    drift: bool = True

    def make_requests(self, digest: str) -> list[ScoreRequest]:
        """The requests for the version that the backend holds under `digest`."""
        anchors = DRIFT_ANCHORS if self.drift else ()
        requests = [ScoreRequest(p.example.input, p.example.output, digest) for p in self.probes]
        requests += [ScoreRequest(row.prompt, text, digest) for row in self.rows for text in row.outputs]
        return requests + [ScoreRequest(a.input, a.output, digest, drift=True) for a in anchors]

    def read_scores(self, scores: Sequence[Score]) -> EvalResult:
        """Sort the scores of those requests, which come in their order, into a result."""
        remaining = iter(scores)
        answers = {p.ref: _make_answer(next(remaining)) for p in self.probes}
        trained = [[next(remaining) for _ in row.outputs] for row in self.rows]
        drifts = [score.drift for score in remaining]
        return EvalResult(
            answers,
            tuple(tuple(score.mean for score in outputs) for outputs in trained),
            fmean(drifts) if drifts else math.nan,
            tuple(outputs[0].is_greedy for outputs in trained),
        )


async def evaluate_probes(
    backend: Backend, batches: Sequence[ProbeBatch], cancel: CancellationToken | None = None
) -> list[EvalResult]:
    """Measure several versions in one call of the backend, so that they share its passes."""
    requests = [batch.make_requests(await backend.load(batch.files)) for batch in batches]
    scores = iter(await backend.score([each for group in requests for each in group], cancel))
    return [
        batch.read_scores(list(islice(scores, len(group))))
        for batch, group in zip(batches, requests, strict=True)
    ]


def _valid_probes(candidate: Candidate) -> Sequence[Probe]:
    """Probes whose answer is still wanted: a prompt that is trained now has a new one, unless pinned."""
    trained = {row.prompt for row in candidate.rows}
    return [p for p in candidate.probes if p.kind is ProbeKind.PINNED or p.example.input not in trained]


def _sample_rows(rows: Sequence[Row]) -> Sequence[Row]:
    """At most SAMPLED_ROWS rows, evenly spread."""
    return rows[:: math.ceil(len(rows) / SAMPLED_ROWS)] if rows else rows


def _needs_all_probes(checks: Sequence[Check]) -> bool:
    """Whether the first probes call for all of them."""
    return any(check.lost or not check.passed for check in checks)


def _make_answer(score: Score) -> ProbeAnswer:
    return ProbeAnswer(score.is_greedy, math.exp(score.mean))


def _measure_gain(row: Row, before: Sequence[float], after: Sequence[float]) -> float:
    """How far the log-probability of a row's wanted output rose, and that of its unwanted one fell."""
    signs = (1, -1) if row.output is not None else (-1,)
    return sum(sign * (a - b) for sign, b, a in zip(signs, before, after, strict=False))


def _mean_likelihood(rows: Sequence[Row], result: EvalResult) -> float:
    """Mean probability of a token of the wanted outputs."""
    wanted = [scores[0] for row, scores in zip(rows, result.rows, strict=True) if row.output is not None]
    return fmean(map(math.exp, wanted)) if wanted else 0.0


def _count_answered(rows: Sequence[Row], result: EvalResult) -> int | None:
    """How many rows are answered with their wanted output; None if no row has one."""
    pairs = zip(rows, result.rows_answered, strict=True)
    answered = [is_answered for row, is_answered in pairs if row.output is not None]
    return sum(answered) if answered else None


def make_probe_scores(
    digest: str, result: EvalResult, first_answers: Mapping[ExampleRef, ProbeAnswer] | None = None
) -> ProbeScores:
    """What is stored of a result, so that it need not be measured again for the version's successor."""
    first = result.answers if first_answers is None else first_answers
    return ProbeScores(
        digest,
        tuple(result.answers),
        tuple(result.answers.values()),
        None if math.isnan(result.drift) else result.drift,
        tuple(first),
        tuple(first.values()),
    )
