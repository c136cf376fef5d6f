"""Merging adapters into a new one."""

from collections.abc import Sequence
from dataclasses import replace

from ouroboros.backend.base import MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import MergedFrom
from ouroboros.engine.answers import Answers
from ouroboros.engine.core import check_examples, raise_if_cancelled, verb
from ouroboros.learning.merging import check_distinct, merge_advice, weigh
from ouroboros.registry.threads import in_thread


class Merging(Answers):
    @verb
    async def merge_adapters(
        self,
        adapter_ids: Sequence[str | AdapterId | VersionRef],
        strategy: MergeStrategy | MergeRecipe = MergeStrategy.AVERAGE,
        *,
        name: str | AdapterId | None = None,
        rank: int | None = None,
        probes: Sequence[TrainingExample] = (),
        cancel: CancellationToken | None = None,
    ) -> MergeReport:
        """Merge adapters' heads, or single versions, into a new adapter; the parents stay as they are.

        It is called `name`, or by its parents' names joined with "+". With `probes`, examples of all
        that the parents should know, parents and result answer them, and the report says whether merging
        helped. A `WEIGHTED` merge without weights then weighs each parent by its share of right answers.
        """
        refs = [VersionRef.parse(i) for i in adapter_ids]
        recipe = strategy if isinstance(strategy, MergeRecipe) else MergeRecipe(strategy)
        weigh(recipe, [1.0] * len(refs) if probes else []).check()
        recipe.weights_for(len(refs))
        merged_id = AdapterId(str(name or "+".join(r.adapter.name for r in refs)))
        merged_id.check()
        if probes:
            check_examples(probes)
        await in_thread(self._registry.require_free, merged_id)
        adapters = [await self._adapter(r.adapter) for r in refs]
        versions = [await in_thread(self._registry.version, r) for r in refs]
        check_distinct(versions)
        scores = {str(v.ref): await self._accuracy(v.ref, probes, cancel) for v in versions if probes}
        recipe = weigh(recipe, list(scores.values()))
        files = [await in_thread(self._registry.files, v) for v in versions]
        merged = await self._backend.merge(MergeJob(tuple(files), recipe, rank), cancel)
        raise_if_cancelled(cancel)
        first = adapters[0].config
        config = replace(merged.config, learning_rate=first.learning_rate, max_steps=first.max_steps)
        cause = f"merged {', '.join(str(v.ref) for v in versions)} ({recipe.strategy.value})"
        base = await self._backend.base()
        origin = MergedFrom(tuple(v.ref for v in versions), recipe, rank)
        await in_thread(self._registry.create, merged_id, config, base, merged.files, cause, origin)
        own = await self._accuracy(VersionRef(merged_id), probes, cancel) if probes else 0.0
        return MergeReport(
            id=merged_id,
            rank=config.rank,
            relative_error=merged.relative_error,
            lossless_rank=merged.lossless_rank,
            accuracy={**scores, str(merged_id): own} if probes else {},
            advice=merge_advice(own, scores),
        )

    async def _accuracy(
        self,
        ref: VersionRef,
        probes: Sequence[TrainingExample],
        cancel: CancellationToken | None,
    ) -> float:
        return (await self.evaluate_adapter(ref, probes, cancel=cancel)).unwrap().accuracy
