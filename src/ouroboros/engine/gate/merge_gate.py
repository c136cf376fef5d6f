"""A merge before the gate: compared with its parents, on what each of them knows."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ouroboros.backend.base import Backend
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.probe_scores import ProbeScores
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.gate.candidate import EvalResult, ProbeBatch, evaluate_probes, make_probe_scores
from ouroboros.learning.gate.policy import (
    Evidence,
    GatePolicy,
    ProbePair,
    make_attempt,
    make_verdict,
    run_checks,
)
from ouroboros.learning.merging.checks import find_best_parents
from ouroboros.learning.replay.probes import Probe


@dataclass(frozen=True, slots=True)
class JudgedMerge:
    """A merge's verdict, its scores on the probes, and all that was measured of it."""

    verdict: Verdict
    probe_scores: ProbeScores
    result: EvalResult


class MergeEvaluation:
    """Measures parents and merge on the same probes; compares the merge with the best parent of each.

    A merge is not repaired: with several parents, there is no single direction to walk back in.
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
        """Measure a parent on all probes."""
        return await self._evaluate(ProbeBatch(files, self._probes))

    async def evaluate_trial(self, files: AdapterFiles, probes: Sequence[Probe]) -> EvalResult:
        """Measure a merge with trial weights on some probes."""
        return await self._evaluate(ProbeBatch(files, probes, drift=False))

    async def _evaluate(self, batch: ProbeBatch) -> EvalResult:
        (result,) = await evaluate_probes(self._backend, [batch], self._cancel)
        return result

    async def judge(self, parents: Mapping[str, EvalResult], merged: AdapterFiles) -> JudgedMerge:
        """Judge a merge by the results of its parents, which are named like "tickets@2"."""
        began = time.perf_counter()
        best = find_best_parents(
            self._probes, {name: parent.answers for name, parent in parents.items()}
        )
        result = await self._evaluate(ProbeBatch(merged, self._probes))
        pairs = []
        for probe in self._probes:
            parent = best[probe.ref.adapter]
            before = parents[parent].answers[probe.ref]
            pairs.append(ProbePair(probe, before, result.answers[probe.ref], parent))
        evidence = Evidence(
            known=pairs,
            fresh=(),
            gains=(),
            likelihood=0.0,
            drift_before=max(parent.drift for parent in parents.values()),
            drift=result.drift,
            strength=await self._backend.measure_strength(merged),
        )
        checks = run_checks(evidence, self._policy)
        seconds = time.perf_counter() - began
        verdict = make_verdict(checks, self._policy, (make_attempt("merged", checks),), seconds)
        return JudgedMerge(verdict, make_probe_scores(merged.digest, result), result)
