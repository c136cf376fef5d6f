"""The versions of an adapter, and which of them is served."""

from collections.abc import Sequence
from dataclasses import replace

from ouroboros.backend.base import MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample, messages_of
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.merging import MergeRecipe, MergeStrategy
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, HeadMoved, Version
from ouroboros.domain.results import ComparedAnswers as ProbeAnswers
from ouroboros.domain.results import Comparison, Evaluation
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.core import verb
from ouroboros.engine.verbs.generation import GenerationVerbs
from ouroboros.registry.journal import JournalEntry
from ouroboros.registry.lineage import ancestors, events_between, in_order, learned


class VersionVerbs(GenerationVerbs):
    @verb
    async def get_versions(self, adapter_id: str | AdapterId) -> list[Version]:
        """Every version of an adapter, oldest first."""
        return await self._registry.versions(VersionRef.parse(adapter_id).adapter)

    @verb
    async def get_version(self, version: str | VersionRef) -> Version:
        """One version: "tickets@3", or the head of "tickets"."""
        return await self._registry.version(VersionRef.parse(version))

    @verb
    async def get_moves(self, adapter_id: str | AdapterId) -> list[HeadMoved]:
        """The rollbacks of an adapter, oldest first."""
        return await self._registry.head_moves(VersionRef.parse(adapter_id).adapter)

    @verb
    async def rollback_adapter(self, version: str | VersionRef, *, replay: bool = False) -> Adapter:
        """Serve one version ("tickets@3") again, older or newer; the way back is the same.

        With `replay`, feedback learned since that version is pending again and learned with the next.
        """
        ref = VersionRef.parse(version)
        if ref.number is None:
            raise InvalidInput(
                f"{ref} is served already.", hint=f"Name the version to serve: {ref.adapter}@1"
            )
        async with self._writing[ref.adapter]:
            return await self._registry.rollback(ref, replay=replay)

    @verb
    async def get_lineage(self, version: str | AdapterId | VersionRef) -> list[Version]:
        """A version ("tickets@3") and all it came from, or a whole adapter and all its versions came
        from ("tickets"); parents before children, merges' parents included."""
        ref = VersionRef.parse(version)
        if ref.number is not None:
            return await self._registry.run(ancestors, ref)
        line = await self._registry.versions(ref.adapter)
        found = {v.ref: v for v in line}
        for one in line:
            if one.merged:
                found |= {v.ref: v for v in await self._registry.run(ancestors, one.ref)}
        return in_order(found.values())

    @verb
    async def get_events(self, version: str | VersionRef) -> list[JournalEntry]:
        """The events of the journal that made a version from its parent."""
        found = await self._registry.version(VersionRef.parse(version))
        return await self._registry.run(learned, found)

    @verb
    async def compare_versions(
        self,
        before: str | VersionRef,
        after: str | VersionRef,
        probes: Sequence[TrainingExample] = (),
        *,
        cancel: CancellationToken | None = None,
    ) -> Comparison:
        """What changed from one version to another: weights, events learned, answers to `probes`."""
        refs = [VersionRef.parse(before), VersionRef.parse(after)]
        for ref in refs:
            await self._adapter(ref.adapter)
        old, new = [await self._registry.version(ref) for ref in refs]
        lines = [await self._registry.run(ancestors, v.ref) for v in (new, old)]
        here, there = await self._files(old), await self._files(new)
        strengths = (await self._backend.strength(here), await self._backend.strength(there))
        distance = await self._between(here, there, cancel)
        comparison = Comparison(old, new, distance, strengths, events_between(*lines))
        if not probes:
            return comparison
        first = (await self.evaluate_adapter(old.ref, probes, cancel=cancel)).unwrap()
        then = (await self.evaluate_adapter(new.ref, probes, cancel=cancel)).unwrap()
        return replace(comparison, answers=_answers(probes, first, then), scores=(first, then))

    async def _files(self, version: Version) -> AdapterFiles:
        return await self._registry.files(version)

    async def _between(
        self, old: AdapterFiles, new: AdapterFiles, cancel: CancellationToken | None
    ) -> float:
        """Norm of the difference of two updates, as a share of the norm of the layers they adapt."""
        if old.digest == new.digest:
            return 0.0
        minus = MergeRecipe(MergeStrategy.TASK_ARITHMETIC, weights=(1.0, -1.0))
        difference = await self._backend.merge(MergeJob((new, old), minus), cancel)
        return await self._backend.strength(difference.files)


def _answers(
    probes: Sequence[TrainingExample], old: Evaluation, new: Evaluation
) -> tuple[ProbeAnswers, ...]:
    said = zip(probes, old.answers, new.answers, strict=True)
    return tuple(
        ProbeAnswers(messages_of(p.input)[-1].content, p.output, before, after)
        for p, before, after in said
    )
