"""One candidate before the gate: what is measured of it, and of its parent."""

import math
import random
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
from ouroboros.learning.gate.policy import Evidence, GatePolicy, Pair, attempt, conclude, judge
from ouroboros.learning.gate.repair import Walk, mends
from ouroboros.learning.replay.anchors import DRIFT_ANCHORS
from ouroboros.learning.replay.probes import Probe, ProbeKind

SAMPLE = 32
"""Of the rows just trained, this many are asked whether they arrived."""

GLANCE = 32
"""Probes that a small update is asked first; only if something is amiss, it is asked all of them."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What training `rows` made of `start`, the parent's files, and what is to be asked of it.

    probes  what the parent knows; `fresh` ones were held out of what it was trained on now.
    small   an update by a few rows: judging it must not take longer than making it.
    """

    start: AdapterFiles
    outcome: TrainOutcome
    rows: Sequence[Row]
    probes: Sequence[Probe]
    fresh: Sequence[Probe] = ()
    small: bool = False


@dataclass(frozen=True, slots=True)
class JudgedCandidate:
    """A candidate as it came out: as it was, repaired, or refused; and how it does on the probes."""

    outcome: TrainOutcome
    verdict: Verdict
    probe_scores: ProbeScores


@dataclass(frozen=True, slots=True)
class EvalResult:
    """What one version was asked: its answers to probes, by place, log-probabilities per token of each
    row's outputs, and its drift on the anchors."""

    answers: dict[ExampleRef, ProbeAnswer]
    rows: tuple[tuple[float, ...], ...]
    drift: float

    def with_more(self, asked: "EvalResult") -> "EvalResult":
        """What was asked first, and what else was asked later."""
        return EvalResult(
            self.answers | asked.answers,
            self.rows or asked.rows,
            asked.drift if math.isnan(self.drift) else self.drift,
        )

    def right(self, probes: Sequence[Probe]) -> float:
        """The share of probes that were answered exactly."""
        return fmean(self.answers[p.place].said for p in probes)


class CandidateEvaluation:
    """Measures and judges one candidate, and points between it and its parent."""

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
        self._rows = _sample(candidate.rows)
        self._probes = _standing_probes(candidate)
        self._first = parent.first()
        self._parent = EvalResult(parent.known(), (), math.nan if parent.drift is None else parent.drift)
        self._attempts: tuple[Attempt, ...] = ()
        self._seconds = 0.0

    async def judge(
        self, outcome: TrainOutcome, what: str, share: float = 1.0, repair: Repair | None = None
    ) -> JudgedCandidate:
        """Judge files, and note the attempt."""
        began = time.perf_counter()
        probes = self._first_probes()
        checks, sheet = await self._check(outcome.files, probes)
        if len(probes) < len(self._probes) and _amiss(checks):
            probes = self._probes
            checks, sheet = await self._check(outcome.files, probes)
        self._attempts += (attempt(what, checks),)
        self._seconds += time.perf_counter() - began
        verdict = conclude(checks, self._policy, self._attempts, self._seconds, share, repair)
        return JudgedCandidate(
            outcome, verdict, make_probe_scores(outcome.files.digest, sheet, self._learned(sheet))
        )

    async def walk_back(
        self, refused: JudgedCandidate, repair: Repair = Repair.WALKED
    ) -> JudgedCandidate:
        """The furthest point on the way from the parent that passes; what was refused, if none does."""
        if not mends([check.name for check in refused.verdict.failed]):
            return refused
        best, walk = refused, Walk()
        while (share := walk.share) is not None:
            files = await self._backend.blend(self._candidate.start, refused.outcome.files, share)
            outcome = replace(refused.outcome, files=files)
            judged = await self.judge(outcome, f"{share:.1%} of the way", share, repair)
            walk = walk.after(share, judged.verdict.promoted)
            best = judged if judged.verdict.promoted else best
        return self.add_attempts(best)

    def add_attempts(self, judged: JudgedCandidate) -> JudgedCandidate:
        """With every attempt so far in its verdict."""
        verdict = replace(judged.verdict, attempts=self._attempts, seconds=self._seconds)
        return replace(judged, verdict=verdict)

    async def _check(
        self, files: AdapterFiles, probes: Sequence[Probe]
    ) -> tuple[tuple[Check, ...], EvalResult]:
        """Ask the candidate, and the parent what it was not asked yet; and judge."""
        asked = (*probes, *self._candidate.fresh)
        unasked = self._unasked(asked)
        questions = [ProbeBatch(files, asked, self._rows), *([unasked] if unasked else [])]
        sheet, *parents = await evaluate_probes(self._backend, questions, self._cancel)
        for parent in parents:
            self._parent = self._parent.with_more(parent)
        before = self._parent
        pairs = [Pair(p, before.answers[p.place], sheet.answers[p.place]) for p in asked]
        evidence = Evidence(
            known=pairs[: len(probes)],
            learned=[self._first.get(p.place, before.answers[p.place]) for p in probes],
            fresh=pairs[len(probes) :],
            arrived=[_gain(*of) for of in zip(self._rows, before.rows, sheet.rows, strict=True)],
            likelihood=_likelihood(self._rows, sheet),
            drift_before=before.drift,
            drift=sheet.drift,
            strength=await self._backend.strength(files),
        )
        return judge(evidence, self._policy), sheet

    def _unasked(self, probes: Sequence[Probe]) -> "ProbeBatch | None":
        """What the parent was not asked yet."""
        known = self._parent
        missing = [p for p in probes if p.place not in known.answers]
        rows, drift = () if known.rows else self._rows, math.isnan(known.drift)
        found = ProbeBatch(self._candidate.start, missing, rows, drift)
        return found if missing or rows or drift else None

    def _learned(self, sheet: EvalResult) -> dict[ExampleRef, ProbeAnswer]:
        """The answers to all probes as they were when each was asked first."""
        known = self._parent.answers | self._first
        first = {p.place: known[p.place] for p in self._probes if p.place in known}
        return first | {p.place: sheet.answers[p.place] for p in self._candidate.fresh}

    def _first_probes(self) -> Sequence[Probe]:
        """All, or for a small update every pin and a few others: other ones for each candidate."""
        if not self._candidate.small:
            return self._probes
        pins = [p for p in self._probes if p.kind is ProbeKind.PINNED]
        rest = [p for p in self._probes if p.kind is not ProbeKind.PINNED]
        chance = random.Random(self._candidate.start.digest)
        return [*pins, *chance.sample(rest, min(GLANCE, len(rest)))]


@dataclass(frozen=True, slots=True)
class ProbeBatch:
    """What is to be known of a version: its answers to probes, what became of rows, and its drift."""

    files: AdapterFiles
    probes: Sequence[Probe]
    rows: Sequence[Row] = ()
    drift: bool = True

    def requests(self, digest: str) -> list[ScoreRequest]:
        """What to ask of the version, which is in memory under that digest."""
        anchors = DRIFT_ANCHORS if self.drift else ()
        asked = [ScoreRequest(p.example.input, p.example.output, digest) for p in self.probes]
        asked += [ScoreRequest(row.prompt, text, digest) for row in self.rows for text in row.outputs]
        return asked + [ScoreRequest(a.input, a.output, digest, drift=True) for a in anchors]

    def sheet(self, scores: Sequence[Score]) -> EvalResult:
        """What the scores of those requests tell."""
        each = iter(scores)
        answers = {p.place: _answer(next(each)) for p in self.probes}
        trained = tuple(tuple(next(each).mean for _ in row.outputs) for row in self.rows)
        drifts = [score.drift for score in each]
        return EvalResult(answers, trained, fmean(drifts) if drifts else math.nan)


async def evaluate_probes(
    backend: Backend, questions: Sequence[ProbeBatch], cancel: CancellationToken | None = None
) -> list[EvalResult]:
    """Everything that is to be known of some versions, in passes that they share."""
    asked = [q.requests(await backend.load(q.files)) for q in questions]
    scores = iter(await backend.score([request for own in asked for request in own], cancel))
    return [q.sheet(list(islice(scores, len(own)))) for q, own in zip(questions, asked, strict=True)]


def _standing_probes(candidate: Candidate) -> Sequence[Probe]:
    """Probes that still hold: what is taught anew now counts by its new answer, unless it is pinned."""
    taught = {row.prompt for row in candidate.rows}
    return [p for p in candidate.probes if p.kind is ProbeKind.PINNED or p.example.input not in taught]


def _sample(rows: Sequence[Row]) -> Sequence[Row]:
    """At most SAMPLE rows, evenly spread."""
    return rows[:: math.ceil(len(rows) / SAMPLE)] if rows else rows


def _amiss(checks: Sequence[Check]) -> bool:
    """Whether a glance calls for a closer look."""
    return any(check.lost or not check.passed for check in checks)


def _answer(score: Score) -> ProbeAnswer:
    return ProbeAnswer(score.said, math.exp(score.mean))


def _gain(row: Row, before: Sequence[float], after: Sequence[float]) -> float:
    """How far a row's wanted output rose, and its unwanted one fell."""
    signs = (1, -1) if row.output is not None else (-1,)
    return sum(sign * (a - b) for sign, b, a in zip(signs, before, after, strict=False))


def _likelihood(rows: Sequence[Row], sheet: EvalResult) -> float:
    """Mean probability of a token of the wanted outputs."""
    wanted = [of[0] for row, of in zip(rows, sheet.rows, strict=True) if row.output is not None]
    return fmean(map(math.exp, wanted)) if wanted else 0.0


def make_probe_scores(
    digest: str, sheet: EvalResult, learned: Mapping[ExampleRef, ProbeAnswer] | None = None
) -> ProbeScores:
    """What is kept of a sheet, so that the version's successor need not ask it again."""
    first = sheet.answers if learned is None else learned
    return ProbeScores(
        digest,
        tuple(sheet.answers),
        tuple(sheet.answers.values()),
        None if math.isnan(sheet.drift) else sheet.drift,
        tuple(first),
        tuple(first.values()),
    )
