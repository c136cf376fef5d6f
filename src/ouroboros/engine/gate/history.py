"""What each adapter's line of versions has been taught, read from the journal and kept at hand.

A merged adapter goes on from what its parents were taught, which is read from their journals: what is
erased there, or goes with a parent that is deleted, it remembers no longer.
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
from ouroboros.registry.lineage import learned
from ouroboros.registry.registry import Registry


@dataclass
class History:
    """The knowledge of the versions up to `number`; pins are read up to `read_to`.

    `sources` are the adapters that some of it was taken over from.
    """

    born: int
    number: int | None
    read_to: int
    knowledge: Knowledge
    sources: frozenset[AdapterId] = frozenset()
    pins: deque[JournalEntry] = field(default_factory=deque)

    def take(self, entry: JournalEntry) -> None:
        """Take in what was learned, after the pins that were set before it."""
        self.take_pins(before=entry.seq)
        self.knowledge.take(entry.seq, entry.event)

    def take_pins(self, before: int) -> None:
        while self.pins and self.pins[0].seq < before:
            pin = self.pins.popleft()
            self.knowledge.take(pin.seq, pin.event)


class HistoryReader:
    """Methods block. What is kept is a digest: it can be let go at any time."""

    def __init__(self, registry: Registry, replay_rows: int) -> None:
        self._registry = registry
        self._replay_rows = replay_rows
        self._lines: dict[AdapterId, History] = {}

    def forget(self, adapter: AdapterId) -> None:
        """Read an adapter's journal anew when it, or what was merged from it, is asked for next."""
        stale = [known for known, line in self._lines.items() if adapter in (known, *line.sources)]
        for known in stale:
            self._lines.pop(known, None)

    def knowledge(self, adapter: Adapter) -> Knowledge:
        """What the adapter's head has been taught. Another head than a later one starts over."""
        line = self._lines.pop(adapter.id, None)
        ahead = self._ahead(adapter, line) if line else None
        if line is None or ahead is None:
            line, ahead = self._begin(adapter, adapter.head)
        self._read(adapter.id, line, ahead)
        self._lines[adapter.id] = line
        return line.knowledge

    def parent_knowledge(self, merged: MergedFrom) -> list[tuple[AdapterId, Knowledge]]:
        """What each parent of a merge was taught up to then, as far as they are still there."""
        found = []
        ends = merged.journals or (None,) * len(merged.versions)
        for ref, end in zip(merged.versions, ends, strict=True):
            with suppress(NotFound):
                line, ahead = self._begin(self._registry.get(ref.adapter), ref.number)
                self._read(ref.adapter, line, ahead, end)
                found.append((ref.adapter, line.knowledge))
        return found

    def merged_knowledge(self, merged: MergedFrom) -> Knowledge:
        """What a merge goes on from."""
        heritage = self.parent_knowledge(merged)
        knowledge = Knowledge(self._replay_rows, whole=len(heritage) == len(merged.versions))
        knowledge.inherit([(adapter.name, known) for adapter, known in heritage])
        return knowledge

    def _begin(self, adapter: Adapter, head: int | None) -> tuple[History, list[Version]]:
        """A line before its first version, and the versions up to `head`, which comes first."""
        ahead = self._registry.lineage(VersionRef(adapter.id, head))
        first = ahead[-1]
        merged = first.merged
        told = Knowledge(self._replay_rows, whole=first.cause == "created")
        knowledge = self.merged_knowledge(merged) if merged else told
        return History(adapter.born, None, adapter.born, knowledge, self._sources(merged)), ahead

    def _sources(self, merged: MergedFrom | None) -> frozenset[AdapterId]:
        """Every adapter whose journal a merge goes back to."""
        found: set[AdapterId] = set()
        for ref in merged.versions if merged else ():
            found.add(ref.adapter)
            with suppress(NotFound):
                found |= self._sources(self._registry.lineage(ref)[-1].merged)
        return frozenset(found)

    def _read(
        self, adapter: AdapterId, line: History, ahead: list[Version], end: int | None = None
    ) -> None:
        """Take in what versions learned, the last of them first, and the pins up to `end`."""
        self._find_pins(adapter, line, end)
        for version in reversed(ahead):
            for entry in learned(self._registry, version):
                line.take(entry)
            line.number = version.number
        line.take_pins(before=line.read_to + 1)

    def _ahead(self, adapter: Adapter, line: History) -> list[Version] | None:
        """The versions from the head back to what is known; None if that is not on the way."""
        found: list[Version] = []
        number: int | None = adapter.head
        while number is not None and line.born == adapter.born:
            if number == line.number:
                return found
            found.append(self._registry.version(VersionRef(adapter.id, number)))
            number = found[-1].parent
        return None

    def _find_pins(self, adapter: AdapterId, line: History, end: int | None) -> None:
        while entries := self._registry.journal.read(adapter, after=line.read_to):
            line.read_to = entries[-1].seq
            line.pins += [
                e
                for e in entries
                if isinstance(e.event, Pinned | Unpinned) and (end is None or e.seq <= end)
            ]
