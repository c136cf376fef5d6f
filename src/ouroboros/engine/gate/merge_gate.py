"""A merge before the gate: held against its parents, on what each of them knows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ouroboros.backend.base import Backend
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.probe_scores import ProbeScores
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.gate.candidate import EvalResult, ProbeBatch, evaluate_probes, make_probe_scores
from ouroboros.learning.gate.policy import Evidence, GatePolicy, Pair, attempt, conclude, judge
from ouroboros.learning.merging.checks import best_parents
from ouroboros.learning.replay.probes import Probe


@dataclass(frozen=True, slots=True)
class JudgedMerge:
    """A merge's verdict, how it does on the probes, and what it answered."""

    verdict: Verdict
    probe_scores: ProbeScores
    result: EvalResult


class MergeEvaluation:
    """Asks parents and merge the same, and holds the merge against the parent that is best at a thing.

    Nothing is repaired: there is no way from several parents to a merge that could be gone back.
    """

    def __init__(
        self,
        backend: Backend,
        policy: GatePolicy,
        probes: Sequence[Probe],
        cancel: CancellationToken | None,
    ) -> None:
        self._backend = backend
        self._policy = policy
        self._probes = probes
        self._cancel = cancel

    async def evaluate_parent(self, files: AdapterFiles) -> EvalResult:
        """What a parent answers."""
        return await self._evaluate(ProbeBatch(files, self._probes))

    async def evaluate_trial(self, files: AdapterFiles, probes: Sequence[Probe]) -> EvalResult:
        """What a merge with weights that are only tried answers to some probes."""
        return await self._evaluate(ProbeBatch(files, probes, drift=False))

    async def _evaluate(self, batch: ProbeBatch) -> EvalResult:
        (result,) = await evaluate_probes(self._backend, [batch], self._cancel)
        return result

    async def judge(self, parents: Mapping[str, EvalResult], merged: AdapterFiles) -> JudgedMerge:
        """The verdict on a merge, by the sheets of its parents, which are named like "tickets@2"."""
        began = time.perf_counter()
        best = best_parents(self._probes, {name: parent.answers for name, parent in parents.items()})
        result = await self._evaluate(ProbeBatch(merged, self._probes))
        pairs = []
        for probe in self._probes:
            by = best[probe.place.adapter]
            before = parents[by].answers[probe.place]
            pairs.append(Pair(probe, before, result.answers[probe.place], by))
        evidence = Evidence(
            known=pairs,
            fresh=(),
            arrived=(),
            likelihood=0.0,
            drift_before=max(parent.drift for parent in parents.values()),
            drift=result.drift,
            strength=await self._backend.strength(merged),
        )
        checks = judge(evidence, self._policy)
        seconds = time.perf_counter() - began
        verdict = conclude(checks, self._policy, (attempt("merged", checks),), seconds)
        return JudgedMerge(verdict, make_probe_scores(merged.digest, result), result)
