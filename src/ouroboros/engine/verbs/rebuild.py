"""Making versions again from the journal: to see that they can be, or without what is forgotten."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import AsyncExitStack

from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import Conflict, NotFound
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.domain.results import Erasure, Rebuild
from ouroboros.engine.checks import raise_if_cancelled
from ouroboros.engine.core import Core, verb
from ouroboros.registry.environment import installed_software
from ouroboros.registry.erasure import (
    ErasureNote,
    begin_erasure,
    collect_ancestor_refs,
    find_affected_versions,
    find_user_events,
    finish_erasure,
    read_notes,
)
from ouroboros.registry.threads import in_thread

Replacements = dict[VersionRef, VersionRef | None]
"""For a version that stood on what is forgotten: what is in its place; None if nothing can be."""


class RebuildVerbs(Core):
    """Rebuild versions from the journal, and erase what was learned from given events."""

    @verb
    async def rebuild_version(
        self, version: str | VersionRef, *, cancel: CancellationToken | None = None
    ) -> Rebuild:
        """Make a version again from its parents and the journal, and compare; nothing is stored.

        On the machine and with the software that made it, on a CPU, the result is the same to the last
        bit. Otherwise the difference is measured.
        """
        ref = VersionRef.parse(version)
        adapter = await self._loader.get_adapter(ref.adapter)
        stored = await self._registry.get_version(ref)
        rebuilt = await self._rebuilder.rebuild(adapter, stored, stored.parents, cancel)
        if rebuilt is None:
            raise NotFound(
                f"What {stored.ref} learned is not in the journal any more.",
                hint="It was forgotten; versions made since then can be rebuilt.",
            )
        stored_files = await self._registry.load_files(stored)
        distance = await self._loader.measure_distance(stored_files, rebuilt.files, cancel)
        return Rebuild(stored, rebuilt.files.digest, distance, _changed_software(stored))

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
        return await self._forget(await self._registry.run(find_user_events, user), cancel)

    def _check_events(self, adapter: AdapterId, events: Collection[int]) -> None:
        registry = self._registry.blocking
        registry.get_adapter(adapter)
        noted = {n for note in read_notes(registry) if note.adapter == adapter for n in note.events}
        for number in events:
            entries = registry.journal.read(adapter, after=number - 1, limit=1)
            if number not in noted and not (entries and entries[0].seq == number):
                raise NotFound(
                    f"Adapter {adapter.name!r} has no event {number}.",
                    hint=f"See which versions learned which events: ouroboros lineage {adapter}",
                )

    async def _forget(
        self, events: Mapping[AdapterId, Collection[int]], cancel: CancellationToken | None
    ) -> Erasure:
        async with AsyncExitStack() as stack:
            for adapter in await self._registry.list_adapters():
                await stack.enter_async_context(self._locks[adapter.id])
            await self._require_mergeable(events)
            noted = await self._registry.run(begin_erasure, events)
            self._drop_cached(note.adapter for note in noted)
            versions = await self._registry.run(find_affected_versions, noted)
            remade = await self._replace(versions, cancel) if versions else {}
            await self._registry.run(finish_erasure, noted, versions)
            self._drop_cached({v.adapter for v in versions})
        return Erasure(
            events={note.adapter: note.events for note in noted},
            removed=tuple(v.ref for v in versions),
            remade=tuple((old, new) for old, new in remade.items()),
        )

    def _drop_cached(self, adapters: Iterable[AdapterId]) -> None:
        for adapter in adapters:
            self._gate.drop_cached(adapter)
            self._feedback_learner.drop_cached(adapter)
            self._monitor.drop_cached(adapter)

    async def _require_mergeable(self, events: Mapping[AdapterId, Collection[int]]) -> None:
        """Raise, before anything is erased, if a merge that has to be made again cannot be."""
        notes = [ErasureNote(a, tuple(numbers), 2**62) for a, numbers in events.items()]
        for version in await self._registry.run(find_affected_versions, notes):
            for ref in version.merged.versions if version.merged else ():
                try:
                    await self._registry.get_version(ref)
                except NotFound as error:
                    raise Conflict(
                        f"{version.ref} was merged from {ref}, which is not there any more.",
                        hint=f"It cannot be made again; first: ouroboros delete {version.adapter}",
                    ) from error

    async def _replace(
        self, versions: list[Version], cancel: CancellationToken | None
    ) -> dict[VersionRef, VersionRef | None]:
        """Make again what is served of `versions`, parents first, and serve that instead."""
        adapters = {v.adapter: await self._loader.get_adapter(v.adapter) for v in versions}
        heads = [VersionRef(a.id, a.head) for a in adapters.values()]
        served = set().union(*(collect_ancestor_refs(versions, head) for head in heads))
        places: Replacements = {}
        remade: Replacements = {}
        for version in versions:
            replacements = [places.get(p, p) for p in version.parents]
            parents = [p for p in replacements if p is not None]
            places[version.ref] = None if version.merged else parents[0]
            if version.ref not in served or len(parents) < len(replacements):
                continue
            raise_if_cancelled(cancel)
            new = await self._rebuilder.rebuild_and_store(
                adapters[version.adapter], version, parents, cancel
            )
            remade[version.ref] = new
            places[version.ref] = new or places[version.ref]
        for head in heads:
            place = places.get(head)
            if head in places and place is not None:
                await self._registry.rollback(place, reason="without what was forgotten")
        return remade


def _changed_software(version: Version) -> tuple[str, ...]:
    then = dict(version.origin.software) if version.origin else {}
    return tuple(f"{n} {then[n]} -> {now}" for n, now in installed_software() if then.get(n, now) != now)
