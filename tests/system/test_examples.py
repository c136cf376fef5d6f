"""The examples run as they lie there."""

from pathlib import Path

import pytest

from ouroboros.data.examples import read_examples
from ouroboros.data.rules import list_broken_rules, read_rules

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_quickstart(python):
    ran = python(EXAMPLES / "01_quickstart.py")
    assert ran.returncode == 0, ran.stderr
    version, _, lesson = ran.stdout.splitlines()
    assert version.startswith("quickstart@2: loss ")
    assert lesson.startswith("quickstart: ")


def test_versions(python):
    ran = python(EXAMPLES / "03_versions.py")
    assert ran.returncode == 0, ran.stderr
    first, trained, lesson, apart, back, forth, repeated, forgotten, served = ran.stdout.splitlines()
    assert first == "tickets@1 (created) learned nothing; 0 of 0 right"
    assert trained == "tickets@2 (trained) learned 1; 0 of 1 right"
    assert lesson.startswith("tickets@3 (feedback) learned 2")
    assert " apart; " in apart
    assert (back, forth) == ("serving @2", "serving @3")
    assert repeated == "tickets@3 made again: the same"
    assert (forgotten, served) == ("forgotten; removed tickets@3", "serving @2")


def test_merge(python):
    ran = python(EXAMPLES / "04_merge.py")
    assert ran.returncode == 0, ran.stderr
    lines = dict(line.split(": ", 1) for line in ran.stdout.splitlines())
    assert list(lines) == ["both, average", "both, task_arithmetic", "both, ties"]
    *sums, ties = [line.removeprefix("Merging did not help: ") for line in lines.values()]
    for line in sums:  # which merges help is the model's business; a sum that is made loses nothing
        assert line.startswith(("rank 16, 0.0% cut off; ", "of 4 probes "))
    assert ties.startswith(("rank 16, ", "of 4 probes "))


def test_import_export(python):
    ran = python(EXAMPLES / "05_import_export.py")
    assert ran.returncode == 0, ran.stderr
    *written, gguf, imported, refused = ran.stdout.splitlines()
    assert [line.split(",")[0] for line in written] == [
        "wrote adapter_config.json",
        "wrote adapter_model.safetensors",
    ]
    assert gguf.startswith("as GGUF, ")
    assert imported == "imported from elsewhere, rank 8"
    assert refused.startswith("refused: The weight file is not a sound adapter")


@pytest.mark.parametrize("file", ["train.jsonl", "heldout.jsonl"])
def test_the_answers_of_the_tone_task_keep_its_rules(file):
    folder = EXAMPLES / "data" / "tone"
    rules = read_rules(folder / "rules.json")
    for row in read_examples(folder / file):
        assert list_broken_rules(rules, row.input, row.output) == []


@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        ("Hello, and", "Hi, and", "open with the greeting"),
        ("ticket is LH-", "ticket is LH-0", "name the ticket of the message"),
        ("Your ticket", "Truly! Your ticket", "have no exclamation mark"),
        ("The Lindenhof team", "Anna", "end with the signature"),
    ],
)
def test_an_answer_of_another_form_breaks_the_rule_for_it(old, new, rule):
    folder = EXAMPLES / "data" / "tone"
    row = read_examples(folder / "heldout.jsonl")[0]
    broken = list_broken_rules(
        read_rules(folder / "rules.json"), row.input, row.output.replace(old, new)
    )
    assert rule in [each.name for each in broken]
