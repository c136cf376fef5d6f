"""What an adapter must not lose, and why a version was let through or not."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from ouroboros.data.sources import Source
from ouroboros.domain.data import Prompt, Row, TrainingExample
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.names import AdapterId, VersionRef
from ouroboros.domain.records import Explanation, Version
from ouroboros.domain.verdict import ExampleRef
from ouroboros.engine.checks import check_examples, load_examples
from ouroboros.engine.core import Core, verb
from ouroboros.engine.instructions import add_instructions
from ouroboros.learning.feedback.signals import row_of
from ouroboros.learning.gate.report import explain_verdict
from ouroboros.learning.replay.knowledge import check_pins
from ouroboros.learning.replay.probes import Probe
from ouroboros.registry.fencing import erasure_guard
from ouroboros.registry.threads import in_thread


class PinVerbs(Core):
    """Pin answers that no update may lose, list the probes, and explain verdicts."""

    @verb
    async def pin_answers(self, adapter_id: str | AdapterId, examples: Source) -> list[TrainingExample]:
        """Pin answers that no update may lose; returns all pinned answers.

        They are tested at every update and never trained on. An answer that the adapter does not give
        yet is guarded once it does. The error is `InvalidInput` if there are too many pins.
        """
        rows = await load_examples(examples)
        check_examples(rows)
        instructions = await self._instructions.read(VersionRef(VersionRef.parse(adapter_id).adapter))
        rows = [replace(row, input=add_instructions(row.input, instructions)) for row in rows]
        await self._backend.check_rows(tuple(map(Row.from_example, rows)))
        return await self._change_pins(adapter_id, Pinned(tuple(rows), datetime.now(UTC)))

    @verb
    async def unpin_answers(
        self, adapter_id: str | AdapterId, prompts: Sequence[Prompt]
    ) -> list[TrainingExample]:
        """Remove the pins of `prompts`; returns the others. `NotFound` if one of them is not pinned."""
        instructions = await self._instructions.read(VersionRef(VersionRef.parse(adapter_id).adapter))
        pinned = tuple(add_instructions(prompt, instructions) for prompt in prompts)
        return await self._change_pins(adapter_id, Unpinned(pinned, datetime.now(UTC)))

    @verb
    async def get_probes(self, adapter_id: str | AdapterId) -> list[Probe]:
        """Return the probes of each new version of an adapter: pinned, held-out and trained examples."""
        adapter = await self._registry.get_adapter(VersionRef.parse(adapter_id).adapter)
        return (await self._gate.knowledge(adapter)).list_probes()

    @verb
    async def explain_version(self, version: str | AdapterId | VersionRef) -> Explanation:
        """Explain in words why a version was promoted or refused."""
        stored = await self._registry.get_version(VersionRef.parse(version))
        examples = await in_thread(self._read_examples, stored)
        return Explanation(stored, explain_verdict(stored, examples))

    async def _change_pins(
        self, adapter_id: str | AdapterId, event: Pinned | Unpinned
    ) -> list[TrainingExample]:
        adapter = await self._loader.get_adapter(VersionRef.parse(adapter_id).adapter)
        knowledge = await self._gate.knowledge(adapter)
        check_pins(knowledge.pins, event)
        await self._registry.journal.append(adapter.id, event, erasure_guard(adapter))
        return (await self._gate.knowledge(adapter)).pins

    def _read_examples(self, version: Version) -> dict[ExampleRef, TrainingExample]:
        """The texts that a verdict points at, as far as they are still there."""
        checks = version.verdict.checks if version.verdict else ()
        places = {place for check in checks for place in (*check.lost, check.like) if place}
        examples: dict[ExampleRef, TrainingExample] = {}
        for name, number in {(place.adapter, place.event) for place in places if place.event}:
            adapter = AdapterId(name) if name else version.adapter
            for entry in self._registry.blocking.journal.read(adapter, after=number - 1, limit=1):
                if entry.seq == number:
                    rows = _examples_of(entry.event)
                    in_event = [p for p in places if (p.adapter, p.event) == (name, number)]
                    examples |= {p: rows[p.row] for p in in_event if p.row < len(rows)}
        return examples


def _examples_of(event: Event) -> Sequence[TrainingExample]:
    match event:
        case ExamplesGiven() | Pinned():
            return event.examples
        case FeedbackGiven():
            row = row_of(event)
            return [TrainingExample(row.prompt, row.output)] if row and row.output is not None else []
    return []
