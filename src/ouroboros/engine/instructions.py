"""`InstructionReader`: the system prompt that a version was trained with, for plain text asked of it."""

from collections import OrderedDict
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

REMEMBERED = 1024
"""Versions, at most, whose instructions are kept in memory."""


class InstructionReader:
    """Reads from the journal which instructions the examples of a version's last training share.

    Nothing is stored for it, so that a version made again without erased examples follows the others.
    """

    def __init__(self, registry: AsyncRegistry) -> None:
        self._registry = registry
        self._known: OrderedDict[VersionRef, str] = OrderedDict()

    async def read(self, ref: VersionRef | None) -> str:
        """Return the instructions of a version; empty if its examples had none, or different ones.

        The base model, None, has none. Raises `NotFound` for an unknown version.
        """
        if ref is None:
            return ""
        if ref not in self._known:
            version = await self._registry.get_version(ref)
            instructions = await self._registry.run(find_instructions, version)
            if ref.number is None:  # the head, which moves
                return instructions
            self._known[ref] = instructions
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[ref]


def add_instructions(prompt: P, instructions: str) -> P | Prompt:
    """Put instructions, if there are any, before a prompt of plain text.

    A prompt of messages says itself what instructions it has, if any, and stays as it is.
    """
    if not instructions or not isinstance(prompt, str):
        return prompt
    return (Message("system", instructions), Message("user", prompt))


def find_instructions(registry: Registry, version: Version) -> str:
    """Return the instructions of the nearest trained ancestor; those of a merge if all parents agree."""
    while True:
        # 1. A training decides, whatever its parents were trained with.
        if version.training is not None and version.events is not None:
            entries = registry.journal.read(version.adapter, after=version.events - 1, limit=1)
            event = entries[0].event if entries and entries[0].seq == version.events else None
            if isinstance(event, ExamplesGiven):
                return shared_instructions(event.examples)
        # 2. Anything else keeps what its parents have.
        try:
            parents = [registry.get_version(ref) for ref in version.parents]
        except NotFound:
            return ""
        if len(parents) != 1:
            instructions = {find_instructions(registry, parent) for parent in parents}
            return instructions.pop() if len(instructions) == 1 else ""
        version = parents[0]


def shared_instructions(examples: Sequence[TrainingExample]) -> str:
    """Return the system turn that all examples begin with; empty if they do not share one."""
    first_turns = {to_messages(example.input)[0] for example in examples}
    if len(first_turns) != 1:
        return ""
    turn = first_turns.pop()
    return turn.content if turn.role == "system" else ""
