"""Merging adapters into a new one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from ouroboros.backend.base import MergeJob, ScoreRequest
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, MergedFrom, Version
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.answers import Answers
from ouroboros.engine.core import check_examples, raise_if_cancelled, verb
from ouroboros.engine.tracking import Tracking
from ouroboros.learning.merging import both, check_distinct, merge_advice, weigh
from ouroboros.learning.tuning import TUNED, tune
from ouroboros.registry.threads import in_thread


class Merging(Answers, Tracking):
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

        It is called `name`, or by its parents' names joined with "+". Parents and result answer
        `probes`, examples of all that the parents should know, or else what the parents are asked at
        every update, and the report says whether merging helped. Without weights, a `WEIGHTED` merge
        weighs each parent by what people said of its answers (by its share of right answers where
        `probes` are given or somebody's were never judged); those of `TASK_ARITHMETIC` are tried out.
        """
        refs = [VersionRef.parse(i) for i in adapter_ids]
        recipe = strategy if isinstance(strategy, MergeRecipe) else MergeRecipe(strategy)
        weigh(recipe, [1.0] * len(refs)).check()
        recipe.weights_for(len(refs))
        merged_id = AdapterId(str(name or "+".join(r.adapter.name for r in refs)))
        merged_id.check()
        if probes:
            check_examples(probes)
        await in_thread(self._registry.require_free, merged_id)
        adapters = [await self._adapter(r.adapter) for r in refs]
        versions = [await in_thread(self._registry.version, r) for r in refs]
        check_distinct(versions)
        judged = [] if probes else await self._judged(versions)
        probes = probes or both([await self._probes(a) for a in adapters])
        files = tuple([await in_thread(self._registry.files, v) for v in versions])
        scores = {
            str(v.ref): (await self._worth(f, probes, cancel))[0]
            for v, f in zip(versions, files, strict=True)
            if probes
        }
        recipe = weigh(recipe, judged or list(scores.values()))
        recipe.check()
        if probes and recipe.strategy is MergeStrategy.TASK_ARITHMETIC and recipe.weights is None:
            recipe = await self._tuned(MergeJob(files, recipe, rank), probes, cancel)
        merged = await self._backend.merge(MergeJob(files, recipe, rank), cancel)
        own = (await self._worth(merged.files, probes, cancel))[0] if probes else 0.0
        raise_if_cancelled(cancel)
        first = adapters[0].config
        config = replace(merged.config, learning_rate=first.learning_rate, max_steps=first.max_steps)
        cause = f"merged {', '.join(str(v.ref) for v in versions)} ({recipe.strategy.value})"
        base = await self._backend.base()
        origin = MergedFrom(tuple(v.ref for v in versions), recipe, rank)
        await in_thread(self._registry.create, merged_id, config, base, merged.files, cause, origin)
        return MergeReport(
            id=merged_id,
            rank=config.rank,
            relative_error=merged.relative_error,
            lossless_rank=merged.lossless_rank,
            accuracy={**scores, str(merged_id): own} if probes else {},
            advice=merge_advice(own, scores),
            weights=recipe.weights or (),
        )

    async def _judged(self, versions: Sequence[Version]) -> list[float]:
        """How people judged each version and what it came from; empty unless all were."""
        uses = [await self._use(version) for version in versions]
        return [use.score for use in uses] if all(use.judged for use in uses) else []

    async def _probes(self, adapter: Adapter) -> list[TrainingExample]:
        """What an adapter's head is asked at every update."""
        knowledge = await self._gatekeeper.knowledge(adapter)
        return [probe.example for probe in knowledge.probes()]

    async def _tuned(
        self, job: MergeJob, probes: Sequence[TrainingExample], cancel: CancellationToken | None
    ) -> MergeRecipe:
        """The recipe with the weights that make the right outputs of some probes likeliest."""
        some = probes[:: math.ceil(len(probes) / TUNED)]
        search = tune(len(job.parents))
        weights = next(search)
        while True:
            recipe = replace(job.recipe, weights=weights)
            merged = await self._backend.merge(replace(job, recipe=recipe), cancel)
            _, likelihood = await self._worth(merged.files, some, cancel)
            try:
                weights = search.send(likelihood)
            except StopIteration as found:
                return replace(job.recipe, weights=found.value)

    async def _worth(
        self,
        files: AdapterFiles,
        probes: Sequence[TrainingExample],
        cancel: CancellationToken | None,
    ) -> tuple[float, float]:
        """The share of probes answered exactly, and the mean probability of a right output's token."""
        digest = await self._backend.load(files)
        asked = [ScoreRequest(p.input, p.output, digest) for p in probes]
        scores = await self._backend.score(asked, cancel)
        return fmean(s.said for s in scores), fmean(math.exp(s.mean) for s in scores)
