"""Merging adapters into a new one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from ouroboros.backend.base import Merged, MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Refused
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import MergedFrom, Version
from ouroboros.engine.core import check_examples, raise_if_cancelled, verb
from ouroboros.engine.gate import EvalResult, JudgedMerge, MergeEvaluation
from ouroboros.engine.verbs.generation import GenerationVerbs
from ouroboros.engine.verbs.performance import PerformanceVerbs
from ouroboros.learning.merging.checks import (
    check_distinct,
    check_merge,
    check_pins_agree,
    given,
    merge_advice,
)
from ouroboros.learning.merging.weight_search import TUNED, search_weights
from ouroboros.learning.replay.probes import Probe


class MergingVerbs(GenerationVerbs, PerformanceVerbs):
    @verb
    async def merge_adapters(
        self,
        adapter_ids: Sequence[str | AdapterId | VersionRef],
        strategy: MergeStrategy | MergeRecipe = MergeStrategy.AVERAGE,
        *,
        name: str | AdapterId | None = None,
        rank: int | None = None,
        probes: Sequence[TrainingExample] = (),
        anyway: bool = False,
        cancel: CancellationToken | None = None,
    ) -> MergeReport:
        """Merge adapters' heads, or single versions, into a new adapter; the parents stay as they are.

        It is called `name`, or by its parents' names joined with "+". It passes the gate as any update
        does: of what each parent is asked at every update, and of `probes`, examples of all that they
        should know, it may answer no less than the parent that is best there. Otherwise the error is
        `Refused`, and nothing is made unless it is wanted `anyway`. It goes on from what its parents
        were taught: its own updates replay that, and are asked it.

        Without weights, a `WEIGHTED` merge weighs each parent by what people said of its answers (by its
        share of right answers where `probes` are given or somebody's were never judged); those of
        `TASK_ARITHMETIC` and `TSV` are tried out.
        """
        refs = [VersionRef.parse(i) for i in adapter_ids]
        recipe = strategy if isinstance(strategy, MergeRecipe) else MergeRecipe(strategy)
        check_merge(recipe, [1.0] * len(refs)).check()
        recipe.weights_for(len(refs))
        merged_id = AdapterId(str(name or "+".join(r.adapter.name for r in refs)))
        merged_id.check()
        if probes:
            check_examples(probes)
        await self._registry.require_free(merged_id)
        adapters = [await self._adapter(r.adapter) for r in refs]
        versions = [await self._registry.version(r) for r in refs]
        check_distinct(versions)
        files = tuple([await self._registry.files(v) for v in versions])
        origin = await self._origin(versions, recipe, rank)
        own = (await self._gate.merged_knowledge(origin)).probes()
        wanted = given(probes)
        asked = wanted or own
        comparison = self._gate.compare([*wanted, *own], cancel)
        sheets = {str(v.ref): await comparison.ask(f) for v, f in zip(versions, files, strict=True)}
        accuracy = {ref: sheet.right(asked) for ref, sheet in sheets.items() if asked}
        judged = [] if wanted else await self._judged(versions)
        recipe = check_merge(recipe, judged or list(accuracy.values()))
        recipe.check()
        if asked and recipe.strategy.tuned and recipe.weights is None:
            recipe = await self._tuned(MergeJob(files, recipe, rank), comparison, asked, cancel)
        merged = await self._backend.merge(MergeJob(files, recipe, rank), cancel)
        compared = await comparison.judge(sheets, merged.files)
        verdict, advice = compared.verdict, merge_advice(str(merged_id), compared.verdict)
        if not verdict.promoted and not anyway:
            raise Refused(
                advice, hint="Nothing was made; to have it all the same: --anyway (anyway=True)."
            )
        raise_if_cancelled(cancel)
        first = adapters[0].config
        config = replace(merged.config, learning_rate=first.learning_rate, max_steps=first.max_steps)
        made = replace(merged, config=config)
        await self._create(merged_id, made, replace(origin, recipe=recipe), compared)
        return MergeReport(
            id=merged_id,
            rank=config.rank,
            relative_error=merged.relative_error,
            lossless_rank=merged.lossless_rank,
            accuracy=accuracy | ({str(merged_id): compared.sheet.right(asked)} if asked else {}),
            advice=advice,
            weights=recipe.weights or (),
            verdict=verdict,
        )

    async def _origin(
        self, versions: Sequence[Version], recipe: MergeRecipe, rank: int | None
    ) -> MergedFrom:
        """What the merge is made from. Parents that pin different answers cannot become one."""
        ends = [await self._registry.journal.end(v.adapter) for v in versions]
        origin = MergedFrom(tuple(v.ref for v in versions), recipe, rank, tuple(ends))
        check_pins_agree(await self._gate.parent_knowledge(origin))
        return origin

    async def _create(
        self, name: AdapterId, merged: Merged, origin: MergedFrom, compared: JudgedMerge
    ) -> None:
        cause = f"merged {', '.join(map(str, origin.versions))} ({origin.recipe.strategy.value})"
        base = await self._backend.base()
        await self._registry.create(
            name,
            merged.config,
            base,
            merged.files,
            cause=cause,
            merged=origin,
            verdict=compared.verdict,
        )
        await self._gate.record_promotion(name, compared.standing)

    async def _judged(self, versions: Sequence[Version]) -> list[float]:
        """How people judged each version and what it came from; empty unless all were."""
        uses = [await self._use(version) for version in versions]
        return [use.score for use in uses] if all(use.judged for use in uses) else []

    async def _tuned(
        self,
        job: MergeJob,
        comparison: MergeEvaluation,
        probes: Sequence[Probe],
        cancel: CancellationToken | None,
    ) -> MergeRecipe:
        """The recipe with the weights that make the right outputs of some probes likeliest."""
        some = probes[:: math.ceil(len(probes) / TUNED)]
        search = search_weights(len(job.parents))
        weights = next(search)
        while True:
            recipe = replace(job.recipe, weights=weights)
            merged = await self._backend.merge(replace(job, recipe=recipe), cancel)
            sheet: EvalResult = await comparison.try_out(merged.files, some)
            try:
                weights = search.send(fmean(a.likelihood for a in sheet.answers.values()))
            except StopIteration as found:
                return replace(job.recipe, weights=found.value)
