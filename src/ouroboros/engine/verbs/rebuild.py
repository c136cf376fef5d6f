"""Making versions again from the journal: to see that they can be, or without what is forgotten."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

from ouroboros.backend.base import MergeJob
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import UpdateConfig
from ouroboros.domain.errors import Conflict, InvalidInput, NotFound
from ouroboros.domain.events import ExamplesGiven
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Lesson, MergedFrom, Version
from ouroboros.domain.results import Erasure, Rebuild
from ouroboros.domain.training import TrainingReport
from ouroboros.domain.verdict import Verdict
from ouroboros.domain.weights import AdapterFiles
from ouroboros.engine.core import raise_if_cancelled, verb
from ouroboros.engine.verbs.training import TrainingInputs, TrainingVerbs
from ouroboros.engine.verbs.versions import VersionVerbs
from ouroboros.registry.environment import installed_software
from ouroboros.registry.erasure import (
    ErasureNote,
    begin,
    events_of,
    finish,
    line_of,
    notes,
    tainted,
)
from ouroboros.registry.threads import in_thread
from ouroboros.registry.version_draft import AppliedFeedback

Replacements = dict[VersionRef, VersionRef | None]
"""For a version that stood on what is forgotten: what is in its place; None if nothing can be."""


@dataclass(frozen=True, slots=True)
class Remade:
    """The files of a version made again, and what goes into its row."""

    files: AdapterFiles
    report: TrainingReport | None = None
    lessons: tuple[Lesson, ...] = ()
    verdict: Verdict | None = None


class RebuildVerbs(TrainingVerbs, VersionVerbs):
    @verb
    async def rebuild_version(
        self, version: str | VersionRef, *, cancel: CancellationToken | None = None
    ) -> Rebuild:
        """Make a version again from its parents and the journal, and compare; nothing is stored.

        On the machine and with the software that made it, on a CPU, the result is the same to the last
        bit. Otherwise the difference is measured.
        """
        ref = VersionRef.parse(version)
        adapter = await self._adapter(ref.adapter)
        stored = await self._registry.version(ref)
        remade = await self._remake(adapter, stored, stored.parents, cancel)
        if remade is None:
            raise NotFound(
                f"What {stored.ref} learned is not in the journal any more.",
                hint="It was forgotten; versions made since then can be rebuilt.",
            )
        distance = await self._between(await self._files(stored), remade.files, cancel)
        return Rebuild(stored, remade.files.digest, distance, _differs(stored))

    @verb
    async def forget_events(
        self,
        adapter_id: str | AdapterId,
        *events: int,
        cancel: CancellationToken | None = None,
    ) -> Erasure:
        """Erase events of an adapter's journal, and make again without them what had learned them.

        Every version that they may have had a part in goes, with all that came from it, merges included.
        What is served of these is first made again, from the last version before them, through the gate.
        If this is interrupted, calling it once more goes on. Without `events` it only does that.
        """
        adapter = VersionRef.parse(adapter_id).adapter
        await in_thread(self._check_events, adapter, events)
        return await self._forget({adapter: events} if events else {}, cancel)

    @verb
    async def forget_user(self, user: str, *, cancel: CancellationToken | None = None) -> Erasure:
        """Forget whatever a user said, to any adapter."""
        return await self._forget(await self._registry.run(events_of, user), cancel)

    def _check_events(self, adapter: AdapterId, events: Collection[int]) -> None:
        registry = self._registry.blocking
        registry.get(adapter)
        noted = {n for note in notes(registry) if note.adapter == adapter for n in note.events}
        for number in events:
            found = registry.journal.read(adapter, after=number - 1, limit=1)
            if number not in noted and not (found and found[0].seq == number):
                raise NotFound(
                    f"Adapter {adapter.name!r} has no event {number}.",
                    hint=f"See which versions learned which events: ouroboros lineage {adapter}",
                )

    async def _forget(
        self, events: Mapping[AdapterId, Collection[int]], cancel: CancellationToken | None
    ) -> Erasure:
        async with AsyncExitStack() as stack:
            for adapter in await self._registry.adapters():
                await stack.enter_async_context(self._writing[adapter.id])
            await self._require_mergeable(events)
            noted = await self._registry.run(begin, events)
            self._drop_memories(note.adapter for note in noted)
            versions = await self._registry.run(tainted, noted)
            remade = await self._replace(versions, cancel) if versions else {}
            await self._registry.run(finish, noted, versions)
            self._drop_memories({v.adapter for v in versions})
        return Erasure(
            events={note.adapter: note.events for note in noted},
            removed=tuple(v.ref for v in versions),
            remade=tuple((old, new) for old, new in remade.items()),
        )

    def _drop_memories(self, adapters: Iterable[AdapterId]) -> None:
        for adapter in adapters:
            self._gate.drop_cached(adapter)
            self._feedback_learner.drop_cached(adapter)
            for key in [k for k in self._trackers if k[0] == adapter]:
                del self._trackers[key]

    async def _require_mergeable(self, events: Mapping[AdapterId, Collection[int]]) -> None:
        """Raise, before anything is erased, if a merge that has to be made again cannot be."""
        asked = [ErasureNote(a, tuple(numbers), 2**62) for a, numbers in events.items()]
        for version in await self._registry.run(tainted, asked):
            for ref in version.merged.versions if version.merged else ():
                try:
                    await self._registry.version(ref)
                except NotFound as error:
                    raise Conflict(
                        f"{version.ref} was merged from {ref}, which is not there any more.",
                        hint=f"It cannot be made again; first: ouroboros delete {version.adapter}",
                    ) from error

    async def _replace(
        self, versions: list[Version], cancel: CancellationToken | None
    ) -> dict[VersionRef, VersionRef | None]:
        """Make again what is served of `versions`, parents first, and serve that instead."""
        adapters = {v.adapter: await self._adapter(v.adapter) for v in versions}
        heads = [VersionRef(a.id, a.head) for a in adapters.values()]
        served = set().union(*(line_of(versions, head) for head in heads))
        places: Replacements = {}
        remade: Replacements = {}
        for version in versions:
            found = [places.get(p, p) for p in version.parents]
            parents = [p for p in found if p is not None]
            places[version.ref] = None if version.merged else parents[0]
            if version.ref not in served or len(parents) < len(found):
                continue
            raise_if_cancelled(cancel)
            new = await self._again(adapters[version.adapter], version, parents, cancel)
            remade[version.ref] = new
            places[version.ref] = new or places[version.ref]
        for head in heads:
            place = places.get(head)
            if head in places and place is not None:
                await self._registry.rollback(place, reason="without what was forgotten")
        return remade

    async def _again(
        self,
        adapter: Adapter,
        version: Version,
        parents: Sequence[VersionRef],
        cancel: CancellationToken | None,
    ) -> VersionRef | None:
        """A version made again and kept, unless nothing of it is left or the gate refuses it."""
        remade = await self._remake(adapter, version, parents, cancel)
        if remade is None:
            return None
        if remade.verdict is not None and not (remade.verdict.promoted or version.merged):
            return None  # what it was to replace has a predecessor that is served; a merge has none
        taught = None
        if version.update is not None and version.events is not None:
            taught = AppliedFeedback(_since(version), version.events, remade.lessons, version.update)
        kept = await self._registry.store_unserved(
            adapter.id,
            remade.files,
            parent=None if version.merged else parents[0].number,
            cause=version.cause,
            training=version.training,
            report=remade.report,
            events=version.events,
            taught=taught,
            verdict=remade.verdict,
            merged=replace(version.merged, versions=tuple(parents)) if version.merged else None,
            replaces=version.number,
        )
        return kept.ref

    async def _remake(
        self,
        adapter: Adapter,
        version: Version,
        parents: Sequence[VersionRef],
        cancel: CancellationToken | None,
    ) -> Remade | None:
        """What `version` was made by, once more, on these parents; None if nothing of it is left."""
        if version.merged is not None:
            return await self._merge_again(version.merged, parents, cancel)
        if not parents:
            return await self._draw_again(adapter, version)
        parent = await self._registry.version(parents[0])
        start = await self._files(parent)
        at = replace(adapter, head=parent.number)
        if version.training is not None:
            return await self._train_again(at, start, version, cancel)
        return await self._learn_again(at, start, version)

    async def _draw_again(self, adapter: Adapter, version: Version) -> Remade:
        if version.origin is None or version.origin.seed is None:
            raise InvalidInput(
                f"{version.ref} was {version.cause}: its files are all there is of its origin.",
                hint="Rebuild a version that was made from it.",
            )
        return Remade(await self._backend.initialize(adapter.config, version.origin.seed))

    async def _merge_again(
        self,
        merged: MergedFrom,
        parents: Sequence[VersionRef],
        cancel: CancellationToken | None,
    ) -> Remade:
        versions = [await self._registry.version(p) for p in parents]
        files = {str(v.ref): await self._files(v) for v in versions}
        job = MergeJob(tuple(files.values()), merged.recipe, merged.rank)
        made = (await self._backend.merge(job, cancel)).files
        known = await self._gate.merged_knowledge(replace(merged, versions=tuple(parents)))
        comparison = self._gate.compare(known.probes(), cancel)
        sheets = {ref: await comparison.ask(f) for ref, f in files.items()}
        return Remade(made, verdict=(await comparison.judge(sheets, made)).verdict)

    async def _train_again(
        self,
        at: Adapter,
        start: AdapterFiles,
        version: Version,
        cancel: CancellationToken | None,
    ) -> Remade | None:
        event = version.events or 0
        found = await self._registry.journal.read(at.id, after=event - 1, limit=1)
        if not found or found[0].seq != event or not isinstance(found[0].event, ExamplesGiven):
            return None
        assert version.training is not None
        teaching = TrainingInputs(at, start, found[0].event.examples, event, version.training)
        judged = await self._trained(teaching, cancel=cancel)
        return Remade(judged.outcome.files, judged.outcome.report, verdict=judged.verdict)

    async def _learn_again(self, at: Adapter, start: AdapterFiles, version: Version) -> Remade | None:
        at = replace(at, applied=_since(version))
        update = version.update or UpdateConfig()
        made, judged = await self._feedback_learner.replay_events(at, start, version.events or 0, update)
        if judged is None:
            return None
        return Remade(judged.outcome.files, judged.outcome.report, made.lessons, judged.verdict)


def _since(version: Version) -> int:
    """Up to where the journal had been applied when `version` was made."""
    if version.since is not None:
        return version.since
    return version.lessons[0].event - 1 if version.lessons else (version.events or 1) - 1


def _differs(version: Version) -> tuple[str, ...]:
    then = dict(version.origin.software) if version.origin else {}
    return tuple(f"{n} {then[n]} -> {now}" for n, now in installed_software() if then.get(n, now) != now)
