"""The replay memory: rows of what was learned, balanced over classes, bounded in rows and bytes."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b

from ouroboros.domain.examples import TrainingExample
from ouroboros.domain.prompts import Prompt, messages_of
from ouroboros.domain.verdict import Place

ROWS = 500
BYTES = 1 << 20

_LABEL_WORDS, _LABEL_LETTERS = 4, 48


@dataclass(frozen=True, slots=True)
class Kept:
    """A row, and where in the journal it stands."""

    place: Place
    example: TrainingExample


class Reservoir:
    """Keeps a bounded, balanced choice of the rows that it is given.

    When it is full, the class with the most rows gives one up: the one with the largest hash. So what is
    kept depends on the rows and their order alone, within a class it is a fair sample, and a rare class
    keeps all it has. A prompt is there once, with its latest output.
    """

    def __init__(self, rows: int = ROWS, size: int = BYTES) -> None:
        self._rows, self._size = rows, size
        self._bytes = 0
        self._kept: dict[Prompt, Kept] = {}
        self._classes: defaultdict[str, dict[Prompt, bytes]] = defaultdict(dict)

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[Kept]:
        """In the journal's order."""
        return iter(sorted(self._kept.values(), key=lambda kept: kept.place))

    def get(self, prompt: Prompt) -> Kept | None:
        return self._kept.get(prompt)

    def put(self, place: Place, example: TrainingExample) -> None:
        self.drop(example.input)
        self._kept[example.input] = Kept(place, example)
        self._classes[class_of(example.output)][example.input] = rank(example)
        self._bytes += _size(example)
        while len(self._kept) > self._rows or self._bytes > self._size:
            self._evict()

    def drop(self, prompt: Prompt) -> None:
        """Let go of a prompt, if it is there."""
        kept = self._kept.pop(prompt, None)
        if kept is None:
            return
        self._bytes -= _size(kept.example)
        name = class_of(kept.example.output)
        del self._classes[name][prompt]
        if not self._classes[name]:
            del self._classes[name]

    def _evict(self) -> None:
        largest = max(self._classes.values(), key=lambda members: (len(members), max(members.values())))
        self.drop(max(largest, key=lambda prompt: largest[prompt]))


def class_of(output: str) -> str:
    """What an output is an example of: itself, if it is a label; of longer text its first word and size.

    Texts that open alike and are about as long are the nearest thing to a cluster that costs nothing.
    """
    words = output.split()
    if len(words) <= _LABEL_WORDS and len(output) <= _LABEL_LETTERS:
        return " ".join(words).casefold()
    return f"{words[0].casefold()[:_LABEL_LETTERS]} ... {len(words).bit_length()}"


def rank(example: TrainingExample) -> bytes:
    """A row's place in a shuffle that is the same everywhere."""
    turns = [(m.role, m.content) for m in messages_of(example.input)]
    return blake2b(repr((turns, example.output)).encode(), digest_size=8).digest()


def _size(example: TrainingExample) -> int:
    texts = (*(m.content for m in messages_of(example.input)), example.output)
    return sum(len(text.encode()) for text in texts)
