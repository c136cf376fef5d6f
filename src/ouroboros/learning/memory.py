"""What an adapter has been told so far, read from its journal event by event."""

import random
from collections import OrderedDict, deque
from collections.abc import Collection

from ouroboros.domain.events import Event, ExamplesGiven, FeedbackGiven
from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.losses import APOZero
from ouroboros.domain.prompts import Prompt
from ouroboros.learning.anchors import ANCHORS, PROSE
from ouroboros.learning.signals import teach

RECENT = 1000
"""Judgements that a new one is compared with."""

KNOWN = 2000
"""Prompts whose right answer is remembered: the latest ones."""


class Memory:
    """The journal's digest: bounded, and the same whenever it is read again.

    `read_to` is the last event taken in. Numbers are places in the journal.
    """

    def __init__(self, born: int) -> None:
        self.read_to = born
        self.keys: dict[str, int] = {}
        self._judged: deque[tuple[int, FeedbackGiven]] = deque(maxlen=RECENT)
        self._known: OrderedDict[Prompt, tuple[int, str]] = OrderedDict()

    def take(self, number: int, event: Event) -> None:
        """Take in the journal's next event."""
        self.read_to = number
        if isinstance(event, FeedbackGiven):
            self.keys.setdefault(event.key, number)
            self._judged.append((number, event))
            self._judge(number, event)
            return
        if not isinstance(event, ExamplesGiven):
            return
        for example in event.examples:
            self._know(number, example.input, example.output)

    def judged(self, up_to: int) -> list[tuple[int, FeedbackGiven]]:
        """Recent judgements, up to a place in the journal."""
        return [(number, event) for number, event in self._judged if number <= up_to]

    def protect(self, count: int, up_to: int, but: Collection[Prompt]) -> tuple[TrainingExample, ...]:
        """What an update should leave as it is: plain exchanges, and `count` known prompts among them.

        Which ones depends on the journal alone; none of `but` is among them. If there is no room for
        all, the last ones are left out, and those are prose.
        """
        known = [
            TrainingExample(prompt, output)
            for prompt, (number, output) in self._known.items()
            if number <= up_to and prompt not in but
        ]
        chosen = random.Random(up_to).sample(known, min(count, len(known)))
        return (*ANCHORS, *chosen, *PROSE)

    def _judge(self, number: int, event: FeedbackGiven) -> None:
        row = teach(event, APOZero()).row
        if row is None:
            return
        if row.output is not None:
            self._know(number, row.prompt, row.output)
        elif self._known.get(row.prompt, (0, ""))[1] == row.rejected:
            del self._known[row.prompt]

    def _know(self, number: int, prompt: Prompt, output: str) -> None:
        self._known[prompt] = (number, output)
        self._known.move_to_end(prompt)
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)
