"""`Rebuilder`: makes a version once more, from its parents and the journal."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ouroboros.backend.base import Backend, MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import UpdateConfig
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.events import ExamplesGiven
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Adapter, Lesson, MergedFrom, Version
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.feedback_learner import FeedbackLearner
from ouroboros.engine.gate import PromotionGate
from ouroboros.engine.trainer import Trainer, TrainingInputs
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.version_draft import AppliedFeedback


@dataclass(frozen=True, slots=True)
class RebuiltVersion:
    """The files of a version that was made once more, and what goes into its row."""

    files: AdapterFiles
    report: TrainingReport | None = None
    lessons: tuple[Lesson, ...] = ()
    verdict: Verdict | None = None


class Rebuilder:
    """Repeats what made a version: drawing weights, a training, an update by feedback, or a merge."""

    def __init__(
        self,
        backend: Backend,
        registry: AsyncRegistry,
        gate: PromotionGate,
        trainer: Trainer,
        feedback_learner: FeedbackLearner,
    ) -> None:
        self._backend = backend
        self._registry = registry
        self._gate = gate
        self._trainer = trainer
        self._feedback_learner = feedback_learner

    async def rebuild(
        self,
        adapter: Adapter,
        version: Version,
        parents: Sequence[VersionRef],
        cancel: CancellationToken | None,
    ) -> RebuiltVersion | None:
        """Make `version` on these parents; None if the journal has nothing left of what it learned."""
        if version.merged is not None:
            return await self._repeat_merge(version.merged, parents, cancel)
        if not parents:
            return await self._repeat_initialization(adapter, version)
        parent = await self._registry.get_version(parents[0])
        start = await self._registry.load_files(parent)
        adapter_then = replace(adapter, head=parent.number)
        if version.training is not None:
            return await self._repeat_training(adapter_then, start, version, cancel)
        return await self._repeat_feedback(adapter_then, start, version)

    async def rebuild_and_store(
        self,
        adapter: Adapter,
        version: Version,
        parents: Sequence[VersionRef],
        cancel: CancellationToken | None,
    ) -> VersionRef | None:
        """Store the rebuilt version unserved; None if nothing is left of it or the gate refuses it."""
        rebuilt = await self.rebuild(adapter, version, parents, cancel)
        if rebuilt is None:
            return None
        if rebuilt.verdict is not None and not (rebuilt.verdict.promoted or version.merged):
            return None  # its predecessor is served instead; a merge has none
        feedback = None
        if version.update is not None and version.events is not None:
            since = applied_before(version)
            feedback = AppliedFeedback(since, version.events, rebuilt.lessons, version.update)
        stored = await self._registry.store_unserved(
            adapter.id,
            rebuilt.files,
            parent=None if version.merged else parents[0].number,
            cause=version.cause,
            training=version.training,
            report=rebuilt.report,
            events=version.events,
            applied=feedback,
            verdict=rebuilt.verdict,
            merged=replace(version.merged, versions=tuple(parents)) if version.merged else None,
            replaces=version.number,
        )
        return stored.ref

    async def _repeat_initialization(self, adapter: Adapter, version: Version) -> RebuiltVersion:
        if version.origin is None or version.origin.seed is None:
            raise InvalidInput(
                f"{version.ref} was {version.cause}: its files are all there is of its origin.",
                hint="Rebuild a version that was made from it.",
            )
        return RebuiltVersion(await self._backend.initialize(adapter.config, version.origin.seed))

    async def _repeat_merge(
        self,
        merged: MergedFrom,
        parents: Sequence[VersionRef],
        cancel: CancellationToken | None,
    ) -> RebuiltVersion:
        versions = [await self._registry.get_version(p) for p in parents]
        parent_files = {str(v.ref): await self._registry.load_files(v) for v in versions}
        job = MergeJob(tuple(parent_files.values()), merged.recipe, merged.rank)
        files = (await self._backend.merge(job, cancel)).files
        knowledge = await self._gate.merged_knowledge(replace(merged, versions=tuple(parents)))
        comparison = self._gate.compare(knowledge.list_probes(), cancel)
        results = {ref: await comparison.evaluate_parent(f) for ref, f in parent_files.items()}
        return RebuiltVersion(files, verdict=(await comparison.judge(results, files)).verdict)

    async def _repeat_training(
        self,
        adapter: Adapter,
        start: AdapterFiles,
        version: Version,
        cancel: CancellationToken | None,
    ) -> RebuiltVersion | None:
        number = version.events or 0
        entries = await self._registry.journal.read(adapter.id, after=number - 1, limit=1)
        if not entries or entries[0].seq != number:
            return None
        event = entries[0].event
        if not isinstance(event, ExamplesGiven):
            return None
        assert version.training is not None
        inputs = TrainingInputs(adapter, start, event.examples, number, version.training)
        judged = await self._trainer.train_candidate(inputs, cancel=cancel)
        return RebuiltVersion(judged.outcome.files, judged.outcome.report, verdict=judged.verdict)

    async def _repeat_feedback(
        self, adapter: Adapter, start: AdapterFiles, version: Version
    ) -> RebuiltVersion | None:
        adapter = replace(adapter, applied=applied_before(version))
        update = version.update or UpdateConfig()
        plan, judged = await self._feedback_learner.replay_events(
            adapter, start, version.events or 0, update
        )
        if judged is None:
            return None
        return RebuiltVersion(judged.outcome.files, judged.outcome.report, plan.lessons, judged.verdict)


def applied_before(version: Version) -> int:
    """The last event of the journal that had been applied when `version` was made."""
    if version.since is not None:
        return version.since
    return version.lessons[0].event - 1 if version.lessons else (version.events or 1) - 1
