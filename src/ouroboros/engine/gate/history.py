"""What each adapter has been taught, version by version: read from the journal and cached.

A merged adapter starts with what its parents were taught, which is read from their journals. What is
erased there, or deleted with a parent, is no longer part of its history.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from ouroboros.domain.errors import NotFound
from ouroboros.domain.events import Pinned, Unpinned
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, MergedFrom, Version
from ouroboros.learning.replay.knowledge import Knowledge
from ouroboros.registry.journal import JournalEntry
from ouroboros.registry.lineage import read_learned_events
from ouroboros.registry.registry import Registry


@dataclass
class History:
    """The knowledge of the versions up to `number`; pins are read up to event `read_to`.

    `sources` are the adapters that a merge took some of the knowledge from. `erasures` says how often
    data of the adapter and of each source had been erased: after another time it is read anew.
    """

    born: int
    number: int | None
    read_to: int
    knowledge: Knowledge
    sources: frozenset[AdapterId] = frozenset()
    erasures: tuple[int, ...] = ()
    pins: deque[JournalEntry] = field(default_factory=deque)

    def take(self, entry: JournalEntry) -> None:
        """Add what an event taught, after the pins that were set before it."""
        self.take_pins(before=entry.seq)
        self.knowledge.add_event(entry.seq, entry.event)

    def take_pins(self, before: int) -> None:
        """Add the pins whose number in the journal is lower than `before`."""
        while self.pins and self.pins[0].seq < before:
            pin = self.pins.popleft()
            self.knowledge.add_event(pin.seq, pin.event)


class HistoryReader:
    """Builds histories and caches one per adapter. Methods block."""

    def __init__(self, registry: Registry, replay_rows: int) -> None:
        self._registry = registry
        self._replay_rows = replay_rows
        self._histories: dict[AdapterId, History] = {}

    def drop_cached(self, adapter: AdapterId) -> None:
        """Forget the histories of an adapter and of all that was merged from it."""
        stale = [
            cached
            for cached, history in self._histories.items()
            if adapter in (cached, *history.sources)
        ]
        for cached in stale:
            self._histories.pop(cached, None)

    def knowledge(self, adapter: Adapter) -> Knowledge:
        """What the adapter's head has been taught. After a rollback the history is built anew."""
        history = self._histories.pop(adapter.id, None)
        versions = self._missing_versions(adapter, history) if history else None
        if history is None or versions is None:
            history, versions = self._start_history(adapter, adapter.head)
        self._extend(adapter.id, history, versions)
        self._histories[adapter.id] = history
        return history.knowledge

    def parent_knowledge(self, merged: MergedFrom) -> list[tuple[AdapterId, Knowledge]]:
        """What each parent of a merge had been taught by then, unless it was deleted."""
        parents = []
        ends = merged.journals or (None,) * len(merged.versions)
        for ref, end in zip(merged.versions, ends, strict=True):
            with suppress(NotFound):
                history, versions = self._start_history(
                    self._registry.get_adapter(ref.adapter), ref.number
                )
                self._extend(ref.adapter, history, versions, end)
                parents.append((ref.adapter, history.knowledge))
        return parents

    def merged_knowledge(self, merged: MergedFrom) -> Knowledge:
        """What a merge starts with: all that its parents had been taught."""
        parents = self.parent_knowledge(merged)
        knowledge = Knowledge(self._replay_rows, complete=len(parents) == len(merged.versions))
        knowledge.inherit([(adapter.name, inherited) for adapter, inherited in parents])
        return knowledge

    def _start_history(self, adapter: Adapter, head: int | None) -> tuple[History, list[Version]]:
        """An empty history, and the versions up to `head`, the newest first."""
        versions = self._registry.list_lineage(VersionRef(adapter.id, head))
        first = versions[-1]
        merged = first.merged
        if merged:
            knowledge = self.merged_knowledge(merged)
        else:
            knowledge = Knowledge(self._replay_rows, complete=first.cause == "created")
        sources = self._collect_sources(merged)
        erasures = self._count_erasures(adapter, sources)
        return History(adapter.born, None, adapter.born, knowledge, sources, erasures), versions

    def _count_erasures(self, adapter: Adapter, sources: frozenset[AdapterId]) -> tuple[int, ...]:
        """How often data was erased of an adapter and of its sources; -1 stands for a deleted source."""
        counts = [adapter.erasures]
        for source in sorted(sources):
            try:
                counts.append(self._registry.get_adapter(source).erasures)
            except NotFound:
                counts.append(-1)
        return tuple(counts)

    def _collect_sources(self, merged: MergedFrom | None) -> frozenset[AdapterId]:
        """Every adapter whose journal a merge goes back to."""
        sources: set[AdapterId] = set()
        for ref in merged.versions if merged else ():
            sources.add(ref.adapter)
            with suppress(NotFound):
                sources |= self._collect_sources(self._registry.list_lineage(ref)[-1].merged)
        return frozenset(sources)

    def _extend(
        self, adapter: AdapterId, history: History, versions: list[Version], end: int | None = None
    ) -> None:
        """Add what `versions`, the newest first, have learned, and the pins up to event `end`."""
        self._read_pins(adapter, history, end)
        for version in reversed(versions):
            for entry in read_learned_events(self._registry, version):
                history.take(entry)
            history.number = version.number
        history.take_pins(before=history.read_to + 1)

    def _missing_versions(self, adapter: Adapter, history: History) -> list[Version] | None:
        """The versions after the history's last, the newest first; None if the head is no descendant."""
        missing: list[Version] = []
        number: int | None = adapter.head
        if history.erasures != self._count_erasures(adapter, history.sources):
            return None
        while number is not None and history.born == adapter.born:
            if number == history.number:
                return missing
            missing.append(self._registry.get_version(VersionRef(adapter.id, number)))
            number = missing[-1].parent
        return None

    def _read_pins(self, adapter: AdapterId, history: History, end: int | None) -> None:
        """Read the journal on, and queue its pins up to event `end`."""
        while entries := self._registry.journal.read(adapter, after=history.read_to):
            history.read_to = entries[-1].seq
            history.pins += [
                e
                for e in entries
                if isinstance(e.event, Pinned | Unpinned) and (end is None or e.seq <= end)
            ]
