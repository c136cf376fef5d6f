"""What a line of versions has learned: the rows to replay, and the probes of each new version.

It is built from the journal's events that the line learned, in their order, and never stored itself. So
what is erased from the journal is gone here too, and after a rollback a line knows what it knew before.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

from ouroboros.domain.data import Prompt, Row, TrainingExample
from ouroboros.domain.errors import InvalidInput, NotFound
from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven, Pinned, Unpinned
from ouroboros.domain.verdict import ExampleRef
from ouroboros.learning.feedback.signals import row_of
from ouroboros.learning.replay.probes import MIN_EXAMPLES, Probe, ProbeKind, choose_held_out
from ouroboros.learning.replay.reservoir import MAX_ROWS, Reservoir, StoredExample

MAX_HELD_OUT = 256
MAX_TAUGHT = 64
MAX_PINS = 256


def check_pins(pins: Sequence[TrainingExample], event: Pinned | Unpinned) -> None:
    """Refuse more than `MAX_PINS` pins (`InvalidInput`), and unpinning without a pin (`NotFound`)."""
    prompts = {pin.input for pin in pins}
    if isinstance(event, Pinned):
        count = len(prompts | {example.input for example in event.examples})
        if count > MAX_PINS:
            raise InvalidInput(
                f"There would be {count} pinned answers.",
                hint=f"At most {MAX_PINS} are asked each time.",
            )
        return
    for prompt in event.prompts:
        if prompt not in prompts:
            raise NotFound("No answer to this prompt is pinned.", hint="See: ouroboros pin NAME")


class Knowledge:
    """Bounded samples of the rows to replay and of the held-out rows, and the pins.

    An event with too few examples to hold any out has its trained examples as probes. Knowledge is not
    `complete` if the weights were imported: the adapter may know more than its journal records.
    """

    def __init__(self, max_replay_rows: int = MAX_ROWS, complete: bool = True) -> None:
        self.complete = complete
        self.replay = Reservoir(max_replay_rows, keep_typical=True)
        self._held_out = Reservoir(MAX_HELD_OUT)
        self._taught = Reservoir(MAX_TAUGHT)
        self._pins: dict[Prompt, StoredExample] = {}
        self._trained: set[Prompt] = set()

    def list_probes(self) -> list[Probe]:
        """Return the probes: pins, then held-out and then trained examples in the journal's order."""
        kinds = (
            (ProbeKind.PINNED, self._pins.values()),
            (ProbeKind.HELD_OUT, self._held_out),
            (ProbeKind.TAUGHT, self._taught),
        )
        return [
            Probe(stored.ref, stored.example, kind) for kind, examples in kinds for stored in examples
        ]

    def list_replay_rows(self) -> tuple[Row, ...]:
        """Return the rows to replay, in the journal's order."""
        return tuple(Row.from_example(stored.example) for stored in self.replay)

    @property
    def pins(self) -> list[TrainingExample]:
        """The pinned prompts with the answers that must stay."""
        return [stored.example for stored in self._pins.values()]

    def select_held_out(self, examples: Sequence[TrainingExample]) -> frozenset[int]:
        """Return the indices of new examples to hold out: a share of them, and those that are probes.

        If these are all of them, none is held out.
        """
        out = choose_held_out(examples, self._trained) | {
            i for i, example in enumerate(examples) if self._is_probe(example)
        }
        return out if len(out) < len(examples) else frozenset()

    def add_event(self, number: int, event: Event) -> None:
        """Add an event that was learned, or a pin."""
        match event:
            case ExamplesGiven():
                self._add_examples(number, event.examples)
            case FeedbackGiven():
                self._add_feedback(number, event)
            case Pinned():
                for row, example in enumerate(event.examples):
                    self._pins[example.input] = StoredExample(ExampleRef(number, row), example)
            case Unpinned():
                for prompt in event.prompts:
                    self._pins.pop(prompt, None)

    def inherit(self, parents: Sequence[tuple[str, "Knowledge"]]) -> None:
        """Add what the parents of a merge know, each example under the name of its adapter.

        A prompt that parents learned to answer differently is left out, unless it is pinned: then the
        pinned answer counts.
        """
        # 1. Pins: of two for one prompt, the first parent's.
        for name, parent in parents:
            self.complete &= parent.complete
            self._trained |= parent._trained
            for prompt, stored in parent._pins.items():
                self._pins.setdefault(prompt, _with_adapter(name, stored))
        # 2. The answers that anyone learned for each prompt; a pin decides alone.
        answers: defaultdict[Prompt, set[str]] = defaultdict(set)
        for stored in chain.from_iterable(
            memory for _, parent in parents for memory in parent._reservoirs()
        ):
            answers[stored.example.input].add(stored.example.output)
        for prompt, pin in self._pins.items():
            answers[prompt] = {pin.example.output}
        # 3. Examples on which all agree. What any parent trained on cannot be held out.
        for name, parent in parents:
            for mine, theirs in zip(self._reservoirs(), parent._reservoirs(), strict=True):
                for stored in theirs:
                    if answers[stored.example.input] == {stored.example.output}:
                        mine.put(_with_adapter(name, stored).ref, stored.example)
        for prompt in (*self._trained, *self._pins):
            self._held_out.drop(prompt)

    def _reservoirs(self) -> tuple[Reservoir, Reservoir, Reservoir]:
        return self.replay, self._held_out, self._taught

    def _is_probe(self, example: TrainingExample) -> bool:
        probe = self._held_out.get(example.input)
        return example.input in self._pins or (probe is not None and probe.example == example)

    def _add_examples(self, number: int, examples: Sequence[TrainingExample]) -> None:
        out = self.select_held_out(examples)
        for row, example in enumerate(examples):
            if row not in out:
                self._add_trained(
                    ExampleRef(number, row), example, as_probe=len(examples) < MIN_EXAMPLES
                )
            elif example.input not in self._pins:
                self._held_out.put(ExampleRef(number, row), example)

    def _add_feedback(self, number: int, event: FeedbackGiven) -> None:
        row = row_of(event)
        if row is None:
            return
        if row.output is not None:
            self._add_trained(ExampleRef(number), TrainingExample(row.prompt, row.output), as_probe=True)
            return
        for memory in self._reservoirs():
            stored = memory.get(row.prompt)
            if stored is not None and stored.example.output == row.rejected:
                memory.drop(row.prompt)

    def _add_trained(self, ref: ExampleRef, example: TrainingExample, *, as_probe: bool) -> None:
        """Add a trained example to the rows to replay; it can no longer be held out."""
        self._trained.add(example.input)
        self._held_out.drop(example.input)
        self.replay.put(ref, example)
        if as_probe:
            self._taught.put(ref, example)
        else:
            self._taught.drop(example.input)


def _with_adapter(name: str, stored: StoredExample) -> StoredExample:
    """Return the example with its reference under the name of the adapter in whose journal it is."""
    place = stored.ref
    return StoredExample(replace(place, adapter=place.adapter or name), stored.example)
