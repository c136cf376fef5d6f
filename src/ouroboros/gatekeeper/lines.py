"""What each adapter's line of versions has been taught, read from the journal and kept at hand."""

from collections import deque
from dataclasses import dataclass, field

from ouroboros.domain.events import Pinned, Unpinned
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Adapter, Version
from ouroboros.learning.knowledge import Knowledge
from ouroboros.registry.journal import Journalled
from ouroboros.registry.lineage import learned
from ouroboros.registry.registry import Registry


@dataclass
class Line:
    """The knowledge of the versions up to `number`; pins are read up to `read_to`."""

    born: int
    number: int | None
    read_to: int
    knowledge: Knowledge
    pins: deque[Journalled] = field(default_factory=deque)

    def take(self, entry: Journalled) -> None:
        """Take in what was learned, after the pins that were set before it."""
        self.take_pins(before=entry.seq)
        self.knowledge.take(entry.seq, entry.event)

    def take_pins(self, before: int) -> None:
        while self.pins and self.pins[0].seq < before:
            pin = self.pins.popleft()
            self.knowledge.take(pin.seq, pin.event)


class Lines:
    """Methods block. What is kept is a digest: it can be let go at any time."""

    def __init__(self, registry: Registry, replay_rows: int) -> None:
        self._registry = registry
        self._replay_rows = replay_rows
        self._lines: dict[AdapterId, Line] = {}

    def forget(self, adapter: AdapterId) -> None:
        """Read an adapter's journal anew when it is asked for next."""
        self._lines.pop(adapter, None)

    def knowledge(self, adapter: Adapter) -> Knowledge:
        """What the adapter's head has been taught. Another head than a later one starts over."""
        line = self._lines.pop(adapter.id, None)
        ahead = self._ahead(adapter, line) if line else None
        if line is None or ahead is None:
            line = Line(adapter.born, None, adapter.born, Knowledge(self._replay_rows))
            ahead = self._registry.lineage(VersionRef(adapter.id, adapter.head))
        self._find_pins(adapter.id, line)
        for version in reversed(ahead):
            for entry in learned(self._registry, version):
                line.take(entry)
            line.number = version.number
        line.take_pins(before=line.read_to + 1)
        self._lines[adapter.id] = line
        return line.knowledge

    def _ahead(self, adapter: Adapter, line: Line) -> list[Version] | None:
        """The versions from the head back to what is known; None if that is not on the way."""
        found: list[Version] = []
        number: int | None = adapter.head
        while number is not None and line.born == adapter.born:
            if number == line.number:
                return found
            found.append(self._registry.version(VersionRef(adapter.id, number)))
            number = found[-1].parent
        return None

    def _find_pins(self, adapter: AdapterId, line: Line) -> None:
        while entries := self._registry.journal.read(adapter, after=line.read_to):
            line.pins += [e for e in entries if isinstance(e.event, Pinned | Unpinned)]
            line.read_to = entries[-1].seq
