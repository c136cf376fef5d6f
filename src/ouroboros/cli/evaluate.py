"""`ouroboros evaluate NAME [FILE]`: how many answers are right, which are wrong, and by rules."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.data.examples import read_examples
from ouroboros.data.rules import AnswerRule, list_broken_rules, read_rules
from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.results import Evaluation
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "evaluate"
HELP = "count how many examples of a file an adapter answers right, and show the wrong answers"
EXAMPLES = """\
  ouroboros evaluate tickets heldout.jsonl
  ouroboros evaluate tickets                    its probes, which test every new version
  ouroboros evaluate tickets@1 heldout.jsonl    version 1 is the base model
  ouroboros evaluate tone heldout.jsonl --rules rules.json    the form of free answers"""

SHOWN = 10
"""Wrong answers that are printed unless the user asks for another number."""

MAX_CLASSES = 20
"""Different outputs, at most, that are taken for the classes of a classification."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter, or one version: tickets@2")
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="examples, as for train")
    parser.add_argument(
        "--rules", metavar="FILE", type=Path, help="rules that each answer must keep, in JSON"
    )
    parser.add_argument(
        "--show", metavar="N", type=int, default=SHOWN, help=f"wrong answers to print (default {SHOWN})"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    if options.show < 0:
        raise InvalidInput("--show is negative.", hint="Give the number of wrong answers to print.")
    examples = read_examples(options.file) if options.file else []
    rules = read_rules(options.rules) if options.rules else []
    require_store(settings)
    async with open_engine(settings) as engine:
        examples = examples or await read_probes(engine, options.name)
        with out.waiting(f"Answering {len(examples)} examples"):
            evaluation = (await engine.evaluate_adapter(options.name, examples)).unwrap()
    lines = [
        f"{options.name}: {describe.percent(evaluation)} right,"
        f" mean log-probability {evaluation.mean_logprob:.3f} per token.",
        "An answer is right if it equals the expected output exactly, and then ends.",
    ]
    if rules:
        lines += ["", *format_rules(rules, examples, evaluation, out, options.show)]
    else:
        lines += format_wrong_answers(examples, evaluation, options.show)
        lines += format_classes(examples, evaluation, out)
    out.result(
        describe.evaluation_json(evaluation) | describe_answers(rules, examples, evaluation), *lines
    )


async def read_probes(engine: AdapterLearningEngine, name: str) -> list[TrainingExample]:
    """Returns the examples of an adapter's probes; raises `InvalidInput` if it has none."""
    probes = (await engine.get_probes(name)).unwrap()
    if not probes:
        raise InvalidInput(
            f"{name} has no probes yet: none of its examples were held out.",
            hint="Give a file of examples.",
        )
    return [probe.example for probe in probes]


def describe_answers(
    rules: Sequence[AnswerRule], examples: Sequence[TrainingExample], evaluation: Evaluation
) -> dict[str, Any]:
    """The JSON of each answer with its prompt, and of the classes or the rules."""
    details = [
        {
            "prompt": last_message(example),
            "expected": example.output,
            "answer": answer,
            "right": is_right,
            "broken_rules": [r.name for r in list_broken_rules(rules, example.input, answer)],
        }
        for example, answer, is_right in zip(examples, evaluation.answers, evaluation.right, strict=True)
    ]
    rules_kept = {rule.name: sum(rule.name not in d["broken_rules"] for d in details) for rule in rules}
    classes = {
        name: {"rows": rows, "correct": correct}
        for name, (rows, correct) in count_classes(examples, evaluation).items()
    }
    return {"examples": details, "classes": classes, "rules": rules_kept}


def format_wrong_answers(
    examples: Sequence[TrainingExample], evaluation: Evaluation, shown: int
) -> list[str]:
    """The first wrong answers, each under its prompt and beside what was expected."""
    wrong = [
        (example, answer)
        for example, answer, is_right in zip(examples, evaluation.answers, evaluation.right, strict=True)
        if not is_right
    ]
    lines = []
    for example, answer in wrong[:shown]:
        lines += ["", f'  "{describe.one_line(last_message(example))}"']
        lines += [f"    expected  {describe.one_line(example.output)}"]
        lines += [f"    answered  {describe.one_line(answer) or '(nothing)'}"]
    if len(wrong) > shown > 0:
        lines += ["", f"  {len(wrong) - shown} more are wrong: --show {len(wrong)} prints all."]
    return lines


def format_classes(
    examples: Sequence[TrainingExample], evaluation: Evaluation, out: Output
) -> list[str]:
    """A confusion table if the outputs are classes: expected ones down, answered ones across."""
    classes = count_classes(examples, evaluation)
    if not classes:
        return []
    pairs = Counter(
        (example.output, answer.strip())
        for example, answer in zip(examples, evaluation.answers, strict=True)
    )
    names = sorted(classes)
    rows = []
    for name in names:
        total, correct = classes[name]
        counts = [pairs[name, other] for other in names]
        rows.append(
            (
                name,
                f"{correct} of {total}",
                *(str(count) if count else "." for count in counts),
                str(total - sum(counts)) if total > sum(counts) else ".",
            )
        )
    return ["", out.table(("expected", "right", *names, "(other)"), rows)]


def format_rules(
    rules: Sequence[AnswerRule],
    examples: Sequence[TrainingExample],
    evaluation: Evaluation,
    out: Output,
    shown: int,
) -> list[str]:
    """How many answers keep all rules, and each; and the first answers that break one."""
    broken = [
        list_broken_rules(rules, example.input, answer)
        for example, answer in zip(examples, evaluation.answers, strict=True)
    ]
    rows = len(examples)
    lines = [f"{broken.count([])} of {rows} answers keep all rules."]
    counts = [(r.name, f"{rows - sum(r in names for names in broken)} of {rows}") for r in rules]
    lines += ["", out.table(("rule", "kept"), counts)]
    failures = [i for i, names in enumerate(broken) if names]
    for i in failures[:shown]:
        lines += ["", f'  "{describe.one_line(last_message(examples[i]))}"']
        lines += [f"    answered  {describe.one_line(evaluation.answers[i], 200) or '(nothing)'}"]
        lines += [f"    broken    {'; '.join(rule.name for rule in broken[i])}"]
    return lines


def count_classes(
    examples: Sequence[TrainingExample], evaluation: Evaluation
) -> dict[str, tuple[int, int]]:
    """Rows and right answers of each class; empty if the outputs are not a few that repeat."""
    totals = Counter(example.output for example in examples)
    if not 2 <= len(totals) <= min(MAX_CLASSES, len(examples) // 2):
        return {}
    correct = Counter(e.output for e, right in zip(examples, evaluation.right, strict=True) if right)
    return {name: (total, correct[name]) for name, total in totals.items()}


def last_message(example: TrainingExample) -> str:
    """Returns the text of the prompt's last message."""
    return to_messages(example.input)[-1].content
