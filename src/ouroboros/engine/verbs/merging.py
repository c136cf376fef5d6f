"""Merging adapters into a new one."""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from ouroboros.backend.base import MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Refused
from ouroboros.domain.merging import MergeRecipe, MergeReport, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import MergedFrom, Version
from ouroboros.engine.checks import check_examples, raise_if_cancelled
from ouroboros.engine.core import Core, verb
from ouroboros.engine.gate import MergeEvaluation
from ouroboros.learning.merging.checks import (
    check_distinct,
    check_pins_agree,
    explain_failed_merge,
    fill_weights,
    make_given_probes,
)
from ouroboros.learning.merging.weight_search import MAX_TUNING_PROBES, search_weights
from ouroboros.learning.replay.probes import Probe


class MergingVerbs(Core):
    """Merge adapters into a new one."""

    @verb
    async def merge_adapters(
        self,
        adapter_ids: Sequence[str | AdapterId | VersionRef],
        strategy: MergeStrategy | MergeRecipe = MergeStrategy.TASK_ARITHMETIC,
        *,
        name: str | AdapterId | None = None,
        rank: int | None = None,
        probes: Sequence[TrainingExample] = (),
        anyway: bool = False,
        cancel: CancellationToken | None = None,
    ) -> MergeReport:
        """Merge adapters into a new one, which passes the gate before it is stored; its parents stay.

        The gate compares the merge with the best parent of each task, on the parents' probes and on
        `probes`. The new adapter replays what its parents learned in its own updates.

        Args:
            adapter_ids: two or more; a name is the adapter's head, "tickets@3" one version.
            strategy: a strategy, or a recipe with weights, density and scale. Without weights,
                `WEIGHTED` weighs each parent by users' judgements of its answers (by its share of right
                answers if `probes` are given or a parent was never judged); `TASK_ARITHMETIC` and `TSV`
                try weights. `AVERAGE` and `WEIGHTED` leave little of parents with different tasks.
            name: of the new adapter; by default the parents' names joined with "+".
            rank: of the new adapter; by default what the merge needs, or the largest that fits 10 MiB.
            probes: examples that the merge should answer, beside the parents' own.
            anyway: store the merge even if the gate refuses it.
            cancel: stops before anything is stored.

        Returns:
            The new adapter, the relative error of its updates, and the scores of each parent. Err:
            `Refused` by the gate, `NotFound`, `AlreadyExists`, `InvalidConfig`, `BaseMismatch`,
            `TooLarge`, `Cancelled`.
        """
        refs = [VersionRef.parse(i) for i in adapter_ids]
        recipe = strategy if isinstance(strategy, MergeRecipe) else MergeRecipe(strategy)
        fill_weights(recipe, [1.0] * len(refs)).check()
        recipe.resolve_weights(len(refs))
        merged_id = AdapterId(str(name or "+".join(r.adapter.name for r in refs)))
        merged_id.check()
        if probes:
            check_examples(probes)
        await self._registry.require_name_free(merged_id)
        # 1. Read the parents, and what each of them was taught.
        adapters = [await self._loader.get_adapter(r.adapter) for r in refs]
        versions = [await self._registry.get_version(r) for r in refs]
        check_distinct(versions)
        files = tuple([await self._registry.load_files(v) for v in versions])
        origin = await self._find_origin(versions, recipe, rank)
        own_probes = (await self._gate.merged_knowledge(origin)).list_probes()
        given_probes = make_given_probes(probes)
        accuracy_probes = given_probes or own_probes
        # 2. Measure the parents: the merge is compared with them, and may be weighted by the results.
        comparison = self._gate.compare([*given_probes, *own_probes], cancel)
        results = {
            str(v.ref): await comparison.evaluate_parent(f) for v, f in zip(versions, files, strict=True)
        }
        accuracy = {
            ref: result.share_correct(accuracy_probes)
            for ref, result in results.items()
            if accuracy_probes
        }
        scores = [] if given_probes else await self._monitor.score_versions(versions)
        recipe = fill_weights(recipe, scores or list(accuracy.values()))
        recipe.check()
        if accuracy_probes and recipe.strategy.searches_weights and recipe.weights is None:
            job = MergeJob(files, recipe, rank)
            recipe = await self._tune_weights(job, comparison, accuracy_probes, cancel)
        # 3. Merge and judge.
        merged = await self._backend.merge(MergeJob(files, recipe, rank), cancel)
        judged = await comparison.judge(results, merged.files)
        verdict, advice = judged.verdict, explain_failed_merge(str(merged_id), judged.verdict)
        if not verdict.promoted and not anyway:
            raise Refused(
                advice, hint="Nothing was made; to have it all the same: --anyway (anyway=True)."
            )
        raise_if_cancelled(cancel)
        # 4. Store it. Its later updates train at the first parent's rate.
        first = adapters[0].config
        config = replace(merged.config, learning_rate=first.learning_rate, max_steps=first.max_steps)
        merged = replace(merged, config=config)
        origin = replace(origin, recipe=recipe)
        await self._gate.create_merged(merged_id, merged, origin, judged, adapters)
        if accuracy_probes:
            accuracy[str(merged_id)] = judged.result.share_correct(accuracy_probes)
        return MergeReport(
            id=merged_id,
            rank=config.rank,
            relative_error=merged.relative_error,
            lossless_rank=merged.lossless_rank,
            accuracy=accuracy,
            advice=advice,
            weights=recipe.weights or (),
            verdict=verdict,
        )

    async def _find_origin(
        self, versions: Sequence[Version], recipe: MergeRecipe, rank: int | None
    ) -> MergedFrom:
        """What the merge is made from. Parents that pin different answers cannot become one."""
        ends = [await self._registry.journal.last_seq(v.adapter) for v in versions]
        origin = MergedFrom(tuple(v.ref for v in versions), recipe, rank, tuple(ends))
        check_pins_agree(await self._gate.parent_knowledge(origin))
        return origin

    async def _tune_weights(
        self,
        job: MergeJob,
        comparison: MergeEvaluation,
        probes: Sequence[Probe],
        cancel: CancellationToken | None,
    ) -> MergeRecipe:
        """The recipe with the weights that make the right outputs of some probes likeliest."""
        some = probes[:: math.ceil(len(probes) / MAX_TUNING_PROBES)]
        search = search_weights(len(job.parents))
        weights = next(search)
        while True:
            recipe = replace(job.recipe, weights=weights)
            merged = await self._backend.merge(replace(job, recipe=recipe), cancel)
            result = await comparison.evaluate_trial(merged.files, some)
            try:
                weights = search.send(fmean(a.likelihood for a in result.answers.values()))
            except StopIteration as end:
                return replace(job.recipe, weights=end.value)
