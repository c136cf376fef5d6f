"""Making versions again from the journal: to see that they can be, or without what is forgotten."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime

from ouroboros.domain.base_model import BaseModel
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.errors import Cancelled, NotFound, OuroborosError
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Version
from ouroboros.domain.results import Erasure, Rebuild
from ouroboros.engine.checks import raise_if_cancelled
from ouroboros.engine.core import Core, verb
from ouroboros.registry.environment import installed_software
from ouroboros.registry.erasure import (
    erase_events,
    fence_submissions,
    find_user_events,
    finish_remake,
    note_failure,
    read_notes,
    read_remakes,
)
from ouroboros.registry.threads import in_thread

Replacements = dict[VersionRef, VersionRef | None]
"""For a version that stood on what is forgotten: what was made in its place; None for nothing."""


class RebuildVerbs(Core):
    """Rebuild versions from the journal, and erase what was learned from given events."""

    @verb
    async def rebuild_version(
        self, version: str | VersionRef, *, cancel: CancellationToken | None = None
    ) -> Rebuild:
        """Rebuild a version from its parents and the journal, and compare; nothing is stored.

        On a CPU of the same machine with the same software the result is identical to the last bit.

        Returns:
            Both digests, the distance as a share of the layers' weight norm, and what software changed.
            Err: `NotFound` if the version does not exist or its events were erased, `InvalidInput` if
            it was imported, `BaseMismatch`, `Cancelled`.
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
        base = await self._backend.base()
        changes = (*_changed_software(stored), *_changed_date(stored, base))
        return Rebuild(stored, rebuilt.files.digest, distance, changes)

    @verb
    async def forget_events(
        self,
        adapter_id: str | AdapterId,
        *events: int,
        cancel: CancellationToken | None = None,
    ) -> Erasure:
        """Erase events of an adapter's journal, and rebuild without them what had learned them.

        Every version that may have learned them is deleted with its descendants, merges included, and
        the last version before them is served at once. Then the head is rebuilt from there, through the
        gate.

        Args:
            adapter_id: the adapter.
            events: their numbers in the journal; none resumes an erasure that was interrupted.
            cancel: stops between two rebuilds; what is left is `pending`.

        Returns:
            What was erased, deleted and rebuilt. What cannot be rebuilt now, because it needs another
            base or failed, is `pending`: call this again. Err: `NotFound`, `StoreError`, `Cancelled`.
        """
        adapter = VersionRef.parse(adapter_id).adapter
        await in_thread(self._check_events, adapter, events)
        return await self._forget({adapter: events} if events else {}, cancel)

    @verb
    async def forget_user(self, user: str, *, cancel: CancellationToken | None = None) -> Erasure:
        """Erase all feedback of a user, in every adapter, as `forget_events` does.

        Feedback that anyone submits at this moment is refused, since it may be this user's. Err:
        `StoreError`, `Cancelled`.
        """
        await self._registry.run(fence_submissions)
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
        """Erase, which is final at once, and then make again what was served of the removed versions."""
        erased = await self._registry.run(erase_events, events)
        self._drop_cached({note.adapter for note in erased.notes} | {v.adapter for v in erased.versions})
        remade, pending = await self._remake(cancel)
        return Erasure(
            events={note.adapter: note.events for note in erased.notes},
            removed=tuple(v.ref for v in erased.versions),
            remade=tuple(remade.items()),
            pending=pending,
        )

    def _drop_cached(self, adapters: Iterable[AdapterId]) -> None:
        for adapter in adapters:
            self._gate.drop_cached(adapter)
            self._feedback_learner.drop_cached(adapter)
            self._monitor.drop_cached(adapter)

    async def _remake(
        self, cancel: CancellationToken | None
    ) -> tuple[Replacements, dict[AdapterId, str]]:
        """Make again whatever waits for it, adapter by adapter, parents of merges first.

        What fails stays to be made, and stops nothing else.
        """
        remade: Replacements = {}
        failed: dict[AdapterId, str] = {}
        while True:
            waiting = {r.adapter: r for r in await self._registry.run(read_remakes)}
            untried = [r for r in waiting.values() if r.adapter not in failed]
            ready = [r for r in untried if not r.sources & waiting.keys()]
            if not ready:
                return remade, {adapter: failed.get(adapter, "waits") for adapter in waiting}
            raise_if_cancelled(cancel)
            remake = ready[0]
            try:
                remade |= await self._remake_adapter(remake.adapter, cancel)
            except Cancelled:
                raise
            except Exception as error:  # of whatever kind: it must not stop other erasures
                reason = error.code if isinstance(error, OuroborosError) else type(error).__name__
                failed[remake.adapter] = reason
                await self._registry.run(note_failure, remake, reason)

    async def _remake_adapter(
        self, adapter_id: AdapterId, cancel: CancellationToken | None
    ) -> Replacements:
        """Make again an adapter's versions that wait for it, and serve the last one."""
        async with self._locks[adapter_id]:
            adapter = await self._loader.get_adapter(adapter_id)
            remakes = await self._registry.run(read_remakes)
            remake = next((r for r in remakes if r.adapter == adapter_id), None)
            if remake is None:
                return {}  # another program was faster
            # 1. What stood on the version that is served meanwhile goes on from the head of today.
            places: dict[int, int | None] = {}
            if remake.head is not None and remake.safe:
                places[remake.safe] = adapter.head
            # 2. Each version is made on what is in the place of its parents.
            remade: Replacements = {}
            for version in remake.versions:
                raise_if_cancelled(cancel)
                if any(places.get(p.number or 0, p) is None for p in version.parents):
                    places[version.number] = None  # nothing is in a parent's place
                    continue
                parents = [
                    VersionRef(p.adapter, places.get(p.number or 0, p.number))
                    if p.adapter == adapter_id
                    else p
                    for p in version.parents
                ]
                new = await self._rebuilder.rebuild_and_store(adapter, version, parents, cancel)
                before = None if version.merged else parents[0].number
                places[version.number] = new.number if new else before
                remade[version.ref] = new
            # 3. The head moves.
            await self._registry.run(finish_remake, remake, places)
        self._drop_cached([adapter_id])
        return remade


def _changed_software(version: Version) -> tuple[str, ...]:
    then = dict(version.origin.software) if version.origin else {}
    return tuple(f"{n} {then[n]} -> {now}" for n, now in installed_software() if then.get(n, now) != now)


def _changed_date(version: Version, base: BaseModel) -> tuple[str, ...]:
    """The date that the base's chat template writes into prompts, if it was another one."""
    then, now = (moment.astimezone().date() for moment in (version.created_at, datetime.now(UTC)))
    if not base.has_dated_prompts or then == now:
        return ()
    return (f"the date in prompts {then} -> {now}",)
