"""Judges candidates, repairs what can be repaired, and knows what each line was taught."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from ouroboros.backend.base import Backend, TrainOutcome
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import Refused
from ouroboros.domain.names import AdapterId
from ouroboros.domain.probe_scores import ProbeScores
from ouroboros.domain.records import Adapter, MergedFrom, Version
from ouroboros.domain.verdict import Repair
from ouroboros.engine.gate.candidate import Candidate, CandidateEvaluation, JudgedCandidate
from ouroboros.engine.gate.history import HistoryReader
from ouroboros.engine.gate.merge_gate import MergeEvaluation
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.learning.gate.repair import far_enough
from ouroboros.learning.replay.knowledge import Knowledge
from ouroboros.learning.replay.probes import Probe
from ouroboros.learning.replay.reservoir import ROWS
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.threads import in_thread

Retry = Callable[[], Awaitable[TrainOutcome]]
"""Trains once more, more gently."""


class PromotionGate:
    """Between a trained candidate and the head."""

    def __init__(
        self,
        backend: Backend,
        registry: AsyncRegistry,
        policy: GatePolicy | None = None,
        replay_rows: int = ROWS,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._policy = policy or GatePolicy()
        self._lines = HistoryReader(registry.blocking, replay_rows)
        self._reading: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def knowledge(self, adapter: Adapter) -> Knowledge:
        """What the adapter's head has been taught."""
        async with self._reading[adapter.id]:
            return await in_thread(self._lines.knowledge, adapter)

    def drop_cached(self, adapter: AdapterId) -> None:
        """Call when events were erased from an adapter's journal, or its line is another."""
        self._lines.forget(adapter)

    async def judge(
        self,
        adapter: AdapterId,
        candidate: Candidate,
        retry: Retry | None = None,
        cancel: CancellationToken | None = None,
    ) -> JudgedCandidate:
        """The candidate with its verdict: as it was, or repaired.

        Repairs, one after the other until one keeps most of what was learned: less of the candidate, the
        same rows trained more gently (`retry`), less of that. If none does, the one that keeps most.
        """
        parent = await self._registry.scores.get(adapter, candidate.start.digest)
        trial = CandidateEvaluation(self._backend, self._policy, candidate, parent, cancel)
        judged = await trial.judge(candidate.outcome, "as trained")
        if judged.verdict.promoted:
            return judged
        walked = await trial.walk_back(judged)
        if retry is None or far_enough(walked.verdict):
            return walked
        judged = await trial.judge(await retry(), "trained again, more gently", repair=Repair.AGAIN)
        again = judged if judged.verdict.promoted else await trial.walk_back(judged, Repair.AGAIN)
        return trial.close(further(walked, again))

    async def parent_knowledge(self, merged: MergedFrom) -> list[tuple[AdapterId, Knowledge]]:
        """What each parent of a merge was taught."""
        return await in_thread(self._lines.parent_knowledge, merged)

    async def merged_knowledge(self, merged: MergedFrom) -> Knowledge:
        """What a merge goes on from: all that its parents were taught."""
        return await in_thread(self._lines.merged_knowledge, merged)

    def compare(
        self, probes: Sequence[Probe], cancel: CancellationToken | None = None
    ) -> MergeEvaluation:
        """A merge is to be held against its parents on these probes."""
        return MergeEvaluation(self._backend, self._policy, probes, cancel)

    async def record_promotion(self, adapter: AdapterId, standing: ProbeScores) -> None:
        """Keep how a version does that has become the head."""
        await self._registry.scores.put(adapter, standing)


def further(first: JudgedCandidate, second: JudgedCandidate) -> JudgedCandidate:
    """The one that keeps more of what was learned; what was refused keeps nothing."""
    kept = [j.verdict.share if j.verdict.promoted else 0.0 for j in (first, second)]
    return first if kept[0] > kept[1] else second


def refusal_error(version: Version, parent: int) -> Refused:
    """The error that tells a version was refused, and what is served instead."""
    names = (
        ", ".join(dict.fromkeys(c.name.value for c in version.verdict.failed)) if version.verdict else ""
    )
    return Refused(
        f"{version.ref} is kept but not served, it failed: {names}; @{parent} still is.",
        hint=f"See: ouroboros explain {version.ref}",
    )
