"""Streams of tasks: labelled rows cut into stages, under labels that tell a model nothing."""

import csv
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ouroboros.domain.data import TrainingExample

Rows = list[tuple[str, str]]
"""Text and label."""

LONGEST_LABEL = 12
"""Letters; a SuperNI task with longer outputs is no task of labels."""


@dataclass(frozen=True)
class Stage:
    """One task of a stream: what is taught, and what it is judged by afterwards."""

    name: str
    train: tuple[TrainingExample, ...]
    test: tuple[TrainingExample, ...]


@dataclass(frozen=True)
class Cut:
    """How a stream is cut: stages, classes in each, rows of each class to train and to test by."""

    stages: int
    classes: int
    train: int
    test: int


def stream(source: str, cut: Cut, seed: int) -> tuple[Stage, ...]:
    """The stages of `source`: a folder in the form of BANKING77, HWU64 or SuperNI, or a JSONL file.

    A JSONL file has its own tasks and outputs: `{"task": ..., "input": ..., "output": ...}`.
    """
    path = Path(source)
    chance = random.Random(seed)
    if path.is_file():
        return _own_tasks(path, cut, chance)
    if (path / "train.csv").is_file():
        return _intents(_read_csv(path / "train.csv"), _read_csv(path / "test.csv"), cut, chance)
    if (path / "train" / "seq.in").is_file():
        return _intents(_read_lines(path / "train"), _read_lines(path / "test"), cut, chance)
    return _instructions(path, cut, chance)


def _intents(train: Rows, test: Rows, cut: Cut, chance: random.Random) -> tuple[Stage, ...]:
    """Classes drawn at random, in the order drawn, each under a code that means nothing."""
    train_rows, test_rows = _by_label(train), _by_label(test)
    fit = sorted(
        k for k in train_rows if len(train_rows[k]) >= cut.train and len(test_rows[k]) >= cut.test
    )
    labels = chance.sample(fit, cut.stages * cut.classes)
    codes = dict(zip(labels, _codes(len(labels), chance), strict=True))
    return tuple(
        Stage(
            f"stage {i + 1}",
            _draw(train_rows, labels[i * cut.classes : (i + 1) * cut.classes], codes, cut.train, chance),
            _draw(test_rows, labels[i * cut.classes : (i + 1) * cut.classes], codes, cut.test, chance),
        )
        for i in range(cut.stages)
    )


def _draw(
    rows: dict[str, list[str]],
    labels: Sequence[str],
    codes: dict[str, str],
    count: int,
    chance: random.Random,
) -> tuple[TrainingExample, ...]:
    return tuple(
        TrainingExample(text, codes[label])
        for label in labels
        for text in chance.sample(rows[label], count)
    )


def _codes(count: int, chance: random.Random) -> list[str]:
    """Names that no text suggests, which differ from the first letter on: "KOBA", "TUFI"."""
    consonants, vowels = "BDFGKLMNPRSTVZ", "AEIOU"
    heads = [c + v for c in consonants for v in vowels]
    tails = [c + v for c in consonants for v in vowels]
    return [
        head + tail
        for head, tail in zip(chance.sample(heads, count), chance.sample(tails, count), strict=True)
    ]


def _instructions(folder: Path, cut: Cut, chance: random.Random) -> tuple[Stage, ...]:
    """SuperNI's tasks with short outputs, without their instructions.

    Of its test rows only, split in two, since a base may have been trained on the others.
    """
    tasks: dict[str, Rows] = {}
    for path in sorted(folder.glob("*/test.json")):
        instances = json.loads(path.read_text())["Instances"]
        rows = [(row["input"][-600:], _first(row["output"])) for row in instances]
        if max(len(output) for _, output in rows) <= LONGEST_LABEL:
            tasks[path.parent.name] = rows
    return tuple(_split(name, rows, cut, chance) for name, rows in tasks.items())


def _first(output: str | list[str]) -> str:
    """Of several right outputs the first."""
    return output if isinstance(output, str) else output[0]


def _own_tasks(file: Path, cut: Cut, chance: random.Random) -> tuple[Stage, ...]:
    tasks: defaultdict[str, Rows] = defaultdict(list)
    for line in file.read_text().splitlines():
        row = json.loads(line)
        tasks[row["task"]].append((row["input"], row["output"]))
    return tuple(_split(name, rows, cut, chance) for name, rows in tasks.items())


def _split(name: str, rows: Rows, cut: Cut, chance: random.Random) -> Stage:
    """At most as many rows as an intent stage has, a share of them to test by."""
    rows = chance.sample(rows, min(len(rows), cut.classes * (cut.train + cut.test)))
    n_test = len(rows) * cut.test // (cut.train + cut.test)
    examples = [TrainingExample(text, output) for text, output in rows]
    return Stage(name, tuple(examples[n_test:]), tuple(examples[:n_test]))


def _by_label(rows: Rows) -> dict[str, list[str]]:
    by_label: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for text, label in rows:
        by_label[label][text] = None
    return {label: list(texts) for label, texts in by_label.items()}


def _read_csv(path: Path) -> Rows:
    with path.open(newline="") as file:
        return [(row["text"].strip(), row["category"]) for row in csv.DictReader(file)]


def _read_lines(folder: Path) -> Rows:
    texts, labels = ((folder / n).read_text().splitlines() for n in ("seq.in", "label"))
    return list(zip(texts, labels, strict=True))
