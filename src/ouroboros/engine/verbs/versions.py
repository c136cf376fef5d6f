"""The versions of an adapter, and which of them is served."""

from collections.abc import Sequence
from dataclasses import replace

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, HeadMoved, Version
from ouroboros.domain.results import ComparedAnswers, Comparison, Evaluation
from ouroboros.engine.core import Core, verb
from ouroboros.registry.journal import JournalEntry
from ouroboros.registry.lineage import (
    list_ancestors,
    list_new_events,
    read_learned_events,
    sort_by_ancestry,
)
from ouroboros.registry.registry import Registry


class VersionVerbs(Core):
    """List and compare versions, show their history, and roll back to one."""

    @verb
    async def get_versions(self, adapter_id: str | AdapterId) -> list[Version]:
        """Return every version of an adapter, oldest first."""
        return await self._registry.list_versions(VersionRef.parse(adapter_id).adapter)

    @verb
    async def get_version(self, version: str | VersionRef) -> Version:
        """One version: "tickets@3", or the head of "tickets"."""
        return await self._registry.get_version(VersionRef.parse(version))

    @verb
    async def get_moves(self, adapter_id: str | AdapterId) -> list[HeadMoved]:
        """The rollbacks of an adapter, oldest first."""
        return await self._registry.list_head_moves(VersionRef.parse(adapter_id).adapter)

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
        async with self._locks[ref.adapter]:
            return await self._registry.rollback(ref, replay=replay)

    @verb
    async def get_lineage(self, version: str | AdapterId | VersionRef) -> list[Version]:
        """A version ("tickets@3") and all it came from, or a whole adapter and all its versions came
        from ("tickets"); parents before children, merges' parents included."""
        ref = VersionRef.parse(version)
        if ref.number is not None:
            return await self._registry.run(list_ancestors, ref)
        versions = await self._registry.list_versions(ref.adapter)
        lineage = {v.ref: v for v in versions}
        for each in versions:
            if each.merged:
                lineage |= {v.ref: v for v in await self._registry.run(list_ancestors, each.ref)}
        return sort_by_ancestry(lineage.values())

    @verb
    async def get_events(self, version: str | VersionRef) -> list[JournalEntry]:
        """The events of the journal that made a version from its parent."""
        stored = await self._registry.get_version(VersionRef.parse(version))
        return await self._registry.run(read_learned_events, stored)

    @verb
    async def read_journal(
        self, adapter_id: str | AdapterId, *, after: int = 0, limit: int = 1000
    ) -> list[JournalEntry]:
        """The next `limit` events of an adapter's journal behind the event `after`, oldest first.

        Erased events are left out. Raises `NotFound` for an adapter that does not exist.
        """
        adapter = await self._registry.get_adapter(VersionRef.parse(adapter_id).adapter)
        return await self._registry.journal.read(adapter.id, max(after, adapter.born), limit)

    @verb
    async def list_last_events(self) -> dict[AdapterId, int]:
        """The number of the last event in every adapter's journal: it grows with each new event."""
        return await self._registry.run(_list_last_events)

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
            await self._loader.get_adapter(ref.adapter)
        old, new = [await self._registry.get_version(ref) for ref in refs]
        # 1. The weights: how strong each version's are, and how far apart.
        old_files, new_files = await self._registry.load_files(old), await self._registry.load_files(new)
        strengths = (
            await self._backend.measure_strength(old_files),
            await self._backend.measure_strength(new_files),
        )
        distance = await self._loader.measure_distance(old_files, new_files, cancel)
        # 2. The events that only the newer one learned.
        new_lineage = await self._registry.run(list_ancestors, new.ref)
        old_lineage = await self._registry.run(list_ancestors, old.ref)
        events = list_new_events(new_lineage, old_lineage)
        comparison = Comparison(old, new, distance, strengths, events)
        if not probes:
            return comparison
        # 3. The answers of both to the probes.
        old_scores = await self._evaluator.evaluate(old.ref, probes, cancel)
        new_scores = await self._evaluator.evaluate(new.ref, probes, cancel)
        answers = _compare_answers(probes, old_scores, new_scores)
        return replace(comparison, answers=answers, scores=(old_scores, new_scores))


def _list_last_events(registry: Registry) -> dict[AdapterId, int]:
    return {a.id: registry.journal.last_seq(a.id) for a in registry.list_adapters()}


def _compare_answers(
    probes: Sequence[TrainingExample], old: Evaluation, new: Evaluation
) -> tuple[ComparedAnswers, ...]:
    return tuple(
        ComparedAnswers(to_messages(p.input)[-1].content, p.output, before, after)
        for p, before, after in zip(probes, old.answers, new.answers, strict=True)
    )
