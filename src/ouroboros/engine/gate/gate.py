"""`PromotionGate`: judges candidates, repairs what can be repaired, and commits the result."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from ouroboros.backend.base import Backend, MergedAdapter, TrainOutcome
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.errors import Refused
from ouroboros.domain.names import AdapterId
from ouroboros.domain.records import Adapter, MergedFrom, Version
from ouroboros.domain.verdict import Repair
from ouroboros.engine.gate.candidate import Candidate, CandidateEvaluation, JudgedCandidate
from ouroboros.engine.gate.history import HistoryReader
from ouroboros.engine.gate.merge_gate import JudgedMerge, MergeEvaluation
from ouroboros.learning.gate.policy import GatePolicy
from ouroboros.learning.gate.walk_back import keeps_enough
from ouroboros.learning.replay.knowledge import Knowledge
from ouroboros.learning.replay.probes import Probe
from ouroboros.learning.replay.reservoir import MAX_ROWS
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.threads import in_thread
from ouroboros.registry.version_draft import AppliedFeedback

Retry = Callable[[], Awaitable[TrainOutcome]]
"""Trains the same rows again, with more replay and at a lower rate."""


class PromotionGate:
    """Between a trained candidate and the head."""

    def __init__(
        self,
        backend: Backend,
        registry: AsyncRegistry,
        policy: GatePolicy | None = None,
        replay_rows: int = MAX_ROWS,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._policy = policy or GatePolicy()
        self._histories = HistoryReader(registry.blocking, replay_rows)
        self._read_locks: defaultdict[AdapterId, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def knowledge(self, adapter: Adapter) -> Knowledge:
        """What the adapter's head has been taught."""
        async with self._read_locks[adapter.id]:
            return await in_thread(self._histories.knowledge, adapter)

    def drop_cached(self, adapter: AdapterId) -> None:
        """Call when events were erased from an adapter's journal, or the adapter was deleted."""
        self._histories.drop_cached(adapter)

    async def judge(
        self,
        adapter: AdapterId,
        candidate: Candidate,
        retry: Retry | None = None,
        cancel: CancellationToken | None = None,
    ) -> JudgedCandidate:
        """Return the candidate with its verdict: as trained, repaired, or refused.

        Repairs are tried one after the other until one keeps most of what was learned: a point between
        parent and candidate, a second training at a lower rate (`retry`), a point between parent and
        that. If none keeps most, the one that keeps more is returned.
        """
        parent = await self._registry.scores.get(adapter, candidate.start.digest)
        evaluation = CandidateEvaluation(self._backend, self._policy, candidate, parent, cancel)
        judged = await evaluation.judge(candidate.outcome, "as trained")
        if judged.verdict.promoted:
            return judged
        walked = await evaluation.walk_back(judged)
        if retry is None or keeps_enough(walked.verdict):
            return walked
        judged = await evaluation.judge(await retry(), "trained again, more gently", repair=Repair.AGAIN)
        retried = judged if judged.verdict.promoted else await evaluation.walk_back(judged, Repair.AGAIN)
        return evaluation.add_attempts(choose_further(walked, retried))

    async def parent_knowledge(self, merged: MergedFrom) -> list[tuple[AdapterId, Knowledge]]:
        """What each parent of a merge was taught."""
        return await in_thread(self._histories.parent_knowledge, merged)

    async def merged_knowledge(self, merged: MergedFrom) -> Knowledge:
        """What a merge starts with: all that its parents were taught."""
        return await in_thread(self._histories.merged_knowledge, merged)

    def compare(
        self, probes: Sequence[Probe], cancel: CancellationToken | None = None
    ) -> MergeEvaluation:
        """Return what measures a merge and its parents on these probes."""
        return MergeEvaluation(self._backend, self._policy, probes, cancel)

    async def commit_judged(
        self,
        adapter: AdapterId,
        judged: JudgedCandidate,
        *,
        parent: int,
        cause: str,
        events: int,
        training: TrainingConfig | None = None,
        feedback: AppliedFeedback | None = None,
    ) -> Version:
        """Store a judged candidate as a version, and make it the head if the verdict promotes it.

        A refused version is stored with its verdict, and `parent` stays the head. Raises `Conflict` if
        the head has moved on from `parent`.
        """
        version = await self._registry.commit_version(
            adapter,
            judged.outcome.files,
            parent=parent,
            cause=cause,
            training=training,
            report=judged.outcome.report,
            events=events,
            applied=feedback,
            verdict=judged.verdict,
        )
        if not version.refused:
            # What the new head scored need not be measured again when its successor is judged.
            await self._registry.scores.put(adapter, judged.probe_scores)
        return version

    async def create_merged(
        self,
        adapter: AdapterId,
        merged: MergedAdapter,
        origin: MergedFrom,
        judged: JudgedMerge,
        parents: Sequence[Adapter],
    ) -> None:
        """Store a judged merge as a new adapter, whether its verdict promotes it or not.

        Raises `Fenced` if data of one of the `parents` was erased since they were read.
        """
        cause = f"merged {', '.join(map(str, origin.versions))} ({origin.recipe.strategy.value})"
        await self._registry.create_adapter(
            adapter,
            merged.config,
            await self._backend.base(),
            merged.files,
            cause=cause,
            merged=origin,
            verdict=judged.verdict,
            parents=parents,
        )
        await self._registry.scores.put(adapter, judged.probe_scores)


def choose_further(first: JudgedCandidate, second: JudgedCandidate) -> JudgedCandidate:
    """The candidate that keeps more of what was learned; a refused one keeps nothing."""
    shares = [j.verdict.share if j.verdict.promoted else 0.0 for j in (first, second)]
    return first if shares[0] > shares[1] else second


def refusal_error(version: Version, parent: int) -> Refused:
    """The error for a refused version; it names the failed checks and what is served instead."""
    names = (
        ", ".join(dict.fromkeys(c.name.value for c in version.verdict.failed_checks))
        if version.verdict
        else ""
    )
    return Refused(
        f"{version.ref} is kept but not served, it failed: {names}; @{parent} still is.",
        hint=f"See: ouroboros explain {version.ref}",
    )
