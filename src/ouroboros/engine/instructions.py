"""`InstructionReader`: the system prompt that a version was trained with, for plain text asked of it."""

from collections.abc import Sequence
from typing import TypeVar

from ouroboros.domain.data import Continuation, Message, Prompt, TrainingExample, to_messages
from ouroboros.domain.errors import NotFound
from ouroboros.domain.events import ExamplesGiven
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Version
from ouroboros.registry.async_registry import AsyncRegistry
from ouroboros.registry.registry import Registry

P = TypeVar("P", bound=Prompt | Continuation)

REMEMBERED = 10_000
"""Versions, at most, whose instructions are kept in memory."""


class InstructionReader:
    """Reads from the journal which instructions all examples share that a version was trained on.

    Nothing is stored for it, so that a version made again without erased examples follows the others.
    """

    def __init__(self, registry: AsyncRegistry) -> None:
        self._registry = registry
        self._known: dict[VersionRef, str | None] = {}

    async def read(self, ref: VersionRef | None) -> str:
        """Return the instructions of a version; empty if its examples had none, or different ones.

        The base model, None, has none. Raises `NotFound` for an unknown version.
        """
        if ref is None:
            return ""
        if ref not in self._known:
            if len(self._known) > REMEMBERED:
                self._known = {}
            version = await self._registry.get_version(ref)
            return await self._registry.run(find_instructions, version, self._known) or ""
        return self._known[ref] or ""


def add_instructions(prompt: P, instructions: str) -> P | Prompt:
    """Put instructions, if there are any, before a prompt of plain text.

    A prompt of messages says itself what instructions it has, if any, and stays as it is.
    """
    if not instructions or not isinstance(prompt, str):
        return prompt
    return (Message("system", instructions), Message("user", prompt))


def find_instructions(
    registry: Registry, version: Version, known: dict[VersionRef, str | None]
) -> str | None:
    """Return the instructions that all trainings of a version and its ancestors share.

    It is "" where they had none or different ones, and None where there was no training. `known` has
    those of versions that were asked before, and gains those of all versions on the way.
    """
    waiting = [version]
    while waiting:
        current = waiting[-1]
        # 1. The parents first; one that was removed says nothing.
        unknown = [ref for ref in current.parents if ref not in known]
        for ref in unknown:
            try:
                waiting.append(registry.get_version(ref))
            except NotFound:
                known[ref] = None
        if waiting[-1] is not current:
            continue
        # 2. Then what the version's own examples share.
        shared = {known[ref] for ref in current.parents} | {_read_own_instructions(registry, current)}
        shared.discard(None)
        known[current.ref] = shared.pop() if len(shared) == 1 else "" if shared else None
        waiting.pop()
    return known[version.ref]


def _read_own_instructions(registry: Registry, version: Version) -> str | None:
    if version.training is None or version.events is None:
        return None
    entries = registry.journal.read(version.adapter, after=version.events - 1, limit=1)
    event = entries[0].event if entries and entries[0].seq == version.events else None
    return shared_instructions(event.examples) if isinstance(event, ExamplesGiven) else None


def shared_instructions(examples: Sequence[TrainingExample]) -> str:
    """Return the system turn that all examples begin with; empty if they do not share one."""
    first_turns = {to_messages(example.input)[0] for example in examples}
    if len(first_turns) != 1:
        return ""
    turn = first_turns.pop()
    return turn.content if turn.role == "system" else ""
