"""Probes: examples that test whether an adapter still knows what it learned."""

import random
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

from ouroboros.domain.data import Prompt, TrainingExample
from ouroboros.domain.verdict import ExampleRef
from ouroboros.learning.replay.reservoir import classify_output, compute_shuffle_key

HELD_OUT_SHARE = 0.1
"""Of the examples given at once, this share is held out."""

MIN_EXAMPLES = 40
"""Of fewer examples none is held out: each is worth more in training than as a test."""

MAX_HELD_OUT_AT_ONCE = 64
"""Most examples that one training holds out."""

MIN_CLASS_PROBES = 4
"""The fewest probes of a class for which the class has its own check."""

FIRST_PROBES = 32
"""Probes that judge a small update first; all of them do only if one of these was lost."""

CLASS_ROWS_PER_PROBE = 4
"""At most one row in this many of a class is held out; classes with fewer rows count as one class."""


class ProbeKind(str, Enum):
    """HELD_OUT: never trained on. TAUGHT: trained on, where too few came to hold any out. PINNED: by a
    user. GIVEN: for one merge."""

    HELD_OUT = "held out"
    TAUGHT = "taught"
    PINNED = "pinned"
    GIVEN = "given"


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt, its right answer, and where in the journal they stand."""

    ref: ExampleRef
    example: TrainingExample
    kind: ProbeKind


def choose_held_out(examples: Sequence[TrainingExample], trained: Collection[Prompt]) -> frozenset[int]:
    """Return the indices of the examples to hold out of one training.

    Classes take turns, and each gives rows in the order of their shuffle keys, so the choice is always
    the same. No prompt that was `trained` on is held out, nor one with two different outputs.
    """
    if len(examples) < MIN_EXAMPLES:
        return frozenset()
    places = index_prompts(examples)
    fit = {
        prompt: at[0]
        for prompt, at in places.items()
        if prompt not in trained and len({examples[i].output for i in at}) == 1
    }
    queue = [
        (turn, order, prompt)
        for members in group_by_class(examples, fit)
        for turn, (order, prompt) in enumerate(members[: len(members) // CLASS_ROWS_PER_PROBE])
    ]
    queue.sort(key=lambda candidate: candidate[:2])
    count = min(MAX_HELD_OUT_AT_ONCE, round(HELD_OUT_SHARE * len(examples)))
    return frozenset(i for _, _, prompt in queue[:count] for i in places[prompt])


def index_prompts(examples: Sequence[TrainingExample]) -> dict[Prompt, list[int]]:
    """Map each prompt to the indices of its examples."""
    places: defaultdict[Prompt, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        places[example.input].append(i)
    return places


def group_by_class(
    examples: Sequence[TrainingExample], fit: dict[Prompt, int]
) -> list[list[tuple[bytes, Prompt]]]:
    """Return the prompts of each class, ordered by shuffle key; all small classes count as one."""
    by_class: defaultdict[str, list[tuple[bytes, Prompt]]] = defaultdict(list)
    for prompt, i in fit.items():
        by_class[classify_output(examples[i].output)].append((compute_shuffle_key(examples[i]), prompt))
    small = [
        member
        for members in by_class.values()
        if len(members) < CLASS_ROWS_PER_PROBE
        for member in members
    ]
    large = [members for members in by_class.values() if len(members) >= CLASS_ROWS_PER_PROBE]
    return [sorted(members, key=lambda m: m[0]) for members in (*large, small)]


def choose_first_probes(
    probes: Sequence[Probe], answered: Collection[ExampleRef], seed: str
) -> list[Probe]:
    """Return the probes that judge a small update first: every pin, and a sample that `seed` decides.

    A class that has its own check is always in the sample, by a probe that the parent `answered` if
    there is one: else five probes of 300 could be lost, and none of them be asked.
    """
    # 1. Shuffle, and put first what can be lost.
    pins = [p for p in probes if p.kind is ProbeKind.PINNED]
    others = [p for p in probes if p.kind is not ProbeKind.PINNED]
    random.Random(seed).shuffle(others)
    by_class: defaultdict[str, list[Probe]] = defaultdict(list)
    for probe in sorted(others, key=lambda p: p.ref not in answered):
        by_class[classify_output(probe.example.output)].append(probe)
    # 2. One probe of each class, then any others.
    chosen = {c[0].ref: c[0] for c in by_class.values() if len(c) >= MIN_CLASS_PROBES}
    for probe in others:
        if len(chosen) >= FIRST_PROBES:
            break
        chosen.setdefault(probe.ref, probe)
    return [*pins, *chosen.values()]
