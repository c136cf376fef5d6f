"""The replay memory: rows of what was learned, balanced over classes, bounded in rows and bytes."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from zlib import crc32

import numpy as np
from jaxtyping import Float, Int8
from numpy import ndarray

from ouroboros.domain.data import Prompt, TrainingExample, to_messages
from ouroboros.domain.verdict import ExampleRef

MAX_ROWS = 500
MAX_BYTES = 1 << 20

BAG_SIZE = 256
"""Length of a bag of words; words share its entries by their hash."""

_LABEL_WORDS, _LABEL_LETTERS = 4, 48
_LENGTH = 127
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class StoredExample:
    """An example with its reference in the journal."""

    ref: ExampleRef
    example: TrainingExample


class Reservoir:
    """A bounded, balanced sample of the rows that are added.

    When it is full, the class with the most rows gives one up. By default that is the row with the
    largest hash, so that a class keeps a fair sample of its rows. With `keep_typical` it is the row that
    the class can best spare: the mean bag of words of the rows that stay is as near as possible to that
    of all rows ever added (herding, arXiv 1611.07725, run backwards). The choice depends on the rows and
    their order alone, and a rare class keeps all of its rows. A prompt is stored once, with its latest
    output.
    """

    def __init__(
        self, max_rows: int = MAX_ROWS, max_bytes: int = MAX_BYTES, *, keep_typical: bool = False
    ) -> None:
        self._max_rows, self._max_bytes = max_rows, max_bytes
        self._keep_typical = keep_typical
        self._bytes = 0
        self._stored: dict[Prompt, StoredExample] = {}
        self._classes: dict[str, _Class] = {}

    def __len__(self) -> int:
        return len(self._stored)

    def __iter__(self) -> Iterator[StoredExample]:
        """Yield the examples in the journal's order."""
        return iter(sorted(self._stored.values(), key=lambda stored: stored.ref))

    def get(self, prompt: Prompt) -> StoredExample | None:
        """Return the stored example with this prompt, if there is one."""
        return self._stored.get(prompt)

    def put(self, ref: ExampleRef, example: TrainingExample) -> None:
        """Store an example in place of any with its prompt, and drop others until the bounds hold."""
        self.drop(example.input)
        self._stored[example.input] = StoredExample(ref, example)
        self._classes.setdefault(classify_output(example.output), _Class()).put(
            example, self._keep_typical
        )
        self._bytes += count_bytes(example)
        while len(self._stored) > self._max_rows or self._bytes > self._max_bytes:
            largest = max(self._classes.values(), key=lambda c: (len(c), max(c.ranks.values())))
            self.drop(largest.find_least_needed())

    def drop(self, prompt: Prompt) -> None:
        """Drop a prompt, if it is stored."""
        stored = self._stored.pop(prompt, None)
        if stored is None:
            return
        self._bytes -= count_bytes(stored.example)
        name = classify_output(stored.example.output)
        self._classes[name].drop(prompt)
        if not self._classes[name]:
            del self._classes[name]


def classify_output(output: str) -> str:
    """Return the class of an output: a label itself; for longer text, its first word and its length.

    Texts with the same first word and about the same length are a rough cluster that costs nothing.
    """
    words = output.split()
    if len(words) <= _LABEL_WORDS and len(output) <= _LABEL_LETTERS:
        return " ".join(words).casefold()
    return f"{words[0].casefold()[:_LABEL_LETTERS]} ... {len(words).bit_length()}"


def compute_shuffle_key(example: TrainingExample) -> bytes:
    """Return a key that sorts examples in a random order, the same on every machine."""
    turns = [(m.role, m.content) for m in to_messages(example.input)]
    return blake2b(repr((turns, example.output)).encode(), digest_size=8).digest()


def count_bytes(example: TrainingExample) -> int:
    """Count the bytes of an example's prompt and output as UTF-8."""
    texts = (*(m.content for m in to_messages(example.input)), example.output)
    return sum(len(text.encode()) for text in texts)


def make_bag_of_words(prompt: Prompt) -> Int8[ndarray, "D"]:
    """Count the words of a prompt, scaled to length 127 and rounded: int8 [D].

    A word's entry and sign come from its hash (arXiv 0902.2206), so that words that share an entry
    cancel on average. The result is the same on every machine.
    """
    totals = [0] * BAG_SIZE
    counts = Counter(w for m in to_messages(prompt) for w in _WORD.findall(m.content.casefold()))
    for word, count in counts.items():
        place = crc32(word.encode())
        totals[(place >> 1) % BAG_SIZE] += count if place & 1 else -count
    length = math.sqrt(sum(n * n for n in totals)) or 1.0
    return np.array([round(_LENGTH * n / length) for n in totals], dtype=np.int8)


@dataclass
class _Class:
    """Members of one class by prompt: their ranks, and their bags of words if typical rows stay.

    `sum` is the sum of the bags of all `n_added` rows, dropped ones included.
    """

    ranks: dict[Prompt, bytes] = field(default_factory=dict)
    bags: dict[Prompt, Int8[ndarray, "D"]] = field(default_factory=dict)
    sum: Float[ndarray, "D"] = field(default_factory=lambda: np.zeros(BAG_SIZE))
    n_added: int = 0

    def __len__(self) -> int:
        return len(self.ranks)

    def put(self, example: TrainingExample, typical: bool) -> None:
        self.ranks[example.input] = compute_shuffle_key(example)
        if typical:
            self.bags[example.input] = make_bag_of_words(example.input)
            self.sum += self.bags[example.input]
            self.n_added += 1

    def drop(self, prompt: Prompt) -> None:
        del self.ranks[prompt]
        self.bags.pop(prompt, None)

    def find_least_needed(self) -> Prompt:
        """Return the prompt to drop: that of the largest rank, or that without which the mean bag of
        the remaining rows is nearest to the mean of all rows ever added.

        |sum - v - (n - 1) mean| is least where v (sum - (n - 1) mean) - |v|^2 / 2 is largest. Times
        twice `n_added` these are whole numbers, exact in a float: every machine chooses the same.
        """
        if not self.bags:
            return max(self.ranks, key=lambda prompt: self.ranks[prompt])
        members = np.stack(list(self.bags.values())).astype(np.float64)
        apart = self.n_added * members.sum(0) - (len(members) - 1) * self.sum
        worth = 2 * members @ apart - self.n_added * (members * members).sum(1)
        scores = zip(worth.tolist(), map(self.ranks.__getitem__, self.bags), self.bags, strict=True)
        return max(scores, key=lambda score: score[:2])[2]
