"""`ouroboros demo`: teach one adapter to sort messages and one to answer them, correct one, undo it."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output, program_name
from ouroboros.cli.store import open_engine
from ouroboros.cli.train import train
from ouroboros.data.examples import read_examples
from ouroboros.data.rules import AnswerRule, list_broken_rules, read_rules
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Conflict
from ouroboros.domain.feedback import FeedbackSignal
from ouroboros.domain.records import Version
from ouroboros.domain.results import ComparedAnswers, Evaluation
from ouroboros.settings import DEFAULTS, Settings
from ouroboros.starter import examples_path

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "demo"
HELP = "teach adapters two bundled tasks, correct one answer, and undo the correction"
EXAMPLES = """\
  ouroboros demo
  ouroboros demo --model smollm2 --store ./demo-store
  ouroboros demo --model Qwen/Qwen3-0.6B --store ./qwen-store"""

TASK, TONE = "tickets", "tone"
DESCRIPTIONS = {
    TASK: "the demo: which team a customer's message is for",
    TONE: "the demo: answers to customers in a company's tone and form",
}
"""The descriptions that mark the demo's adapters."""

WIDE = 512
"""Width of a model from which on it is shown the second task; narrower ones write no whole sentences."""

EPOCHS = {TASK: 5, TONE: 10}
"""Passes over the examples on a wide model; narrower ones get the automatic number."""

SHOWN = 3
"""Number of held-out questions whose answers are printed, and of answers that a correction changed."""


@dataclass(frozen=True)
class DemoTask:
    """A bundled task: examples to train on, and others to evaluate with."""

    name: str
    train: list[TrainingExample]
    heldout: list[TrainingExample]


@dataclass(frozen=True)
class ToneResult:
    """How many held-out answers in a company's form keep all rules, without the adapter and with it."""

    version: Version
    answers: int
    before: int
    after: int


@dataclass(frozen=True)
class Correction:
    """One corrected answer, and what it did to the answers to the other held-out questions.

    `version` is None if the correction made no new version. `seconds` is the time from the judgement
    to the new version. `restored` says whether the old answer is back after the rollback.
    """

    question: str
    answer: str
    wanted: str
    lesson: str
    version: str | None
    seconds: float
    corrected: str
    others: int
    others_right: tuple[int, int]
    changed: tuple[ComparedAnswers, ...]
    restored: bool


def add_arguments(parser: ArgumentParser) -> None:
    """This verb has no arguments."""


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    started = perf_counter()
    data = read_task(TASK)
    teams = sorted({example.output for example in data.train})
    out.section(
        f"The first task: send a customer's message to one of {len(teams)} teams ({', '.join(teams)}).",
        f"{len(data.train)} examples are there to learn from, and {len(data.heldout)} others to test.",
    )
    async with open_engine(settings) as engine:
        # 1. What the base model makes of the task without an adapter.
        with out.waiting(f"Loading the model {settings.model}"):
            base = (await engine.base()).unwrap()
        before = await evaluate(engine, None, data, out)
        # 2. Training, and the same questions again.
        version = await train_or_load(engine, data, out)
        after = await evaluate(engine, str(version.ref), data, out)
        out.section(
            *format_answers(data.heldout, before, after),
            "",
            format_scores(version, before, after, out),
        )
        # 3. A second adapter, for whole answers.
        tone = await teach_tone(engine, out) if base.width >= WIDE else None
        # 4. A user corrects one answer and takes the correction back.
        correction = await correct_and_undo(engine, version, data, after, out)
    out.section(
        "",
        f"The whole demo took {perf_counter() - started:.0f} s.",
        *next_commands(data, tone, settings),
    )
    out.value(
        {
            "before": describe.evaluation_json(before),
            "after": describe.evaluation_json(after),
            "version": describe.version_json(version),
            "tone": tone_json(tone),
            "correction": correction_json(correction),
        }
    )


def read_task(name: str) -> DemoTask:
    """Reads a bundled task: the examples to learn from and those to test with."""
    folder = examples_path() / name
    return DemoTask(name, read_examples(folder / "train.jsonl"), read_examples(folder / "heldout.jsonl"))


async def evaluate(
    engine: AdapterLearningEngine, adapter: str | None, data: DemoTask, out: Output
) -> Evaluation:
    """Answers all held-out questions, and prints how many answers are right."""
    started = perf_counter()
    with out.waiting(f"{adapter or 'The base model'} answers {len(data.heldout)} held-out questions"):
        evaluation = (await engine.evaluate_adapter(adapter, data.heldout)).unwrap()
    out.section(
        "",
        f"{adapter or 'The base model'} answers {describe.percent(evaluation)} of the held-out questions"
        f" right ({perf_counter() - started:.0f} s).",
    )
    return evaluation


async def train_or_load(engine: AdapterLearningEngine, data: DemoTask, out: Output) -> Version:
    """Returns the head of a task's adapter, and trains it unless an earlier demo has done so."""
    names = [a.id.name for a in (await engine.list_adapters()).unwrap()]
    description = DESCRIPTIONS[data.name]
    if data.name not in names:
        base = (await engine.base()).unwrap()
        config = AdapterConfig.auto(base)
        (await engine.create_adapter(data.name, config, description=description)).unwrap()
    adapter = (await engine.get_adapter(data.name)).unwrap()
    if adapter.description != description:
        raise Conflict(
            f"The store's adapter {data.name!r} is not the demo's.",
            hint="Use a separate store for the demo: --store ./demo-store",
        )
    head = (await engine.get_version(data.name)).unwrap()
    if head.number > 1:
        out.section("", f"{head.ref} was trained by an earlier demo; it is not trained again.")
        return head
    wide = (await engine.base()).unwrap().width >= WIDE
    config = TrainingConfig.auto(len(data.train), **({"epochs": EPOCHS[data.name]} if wide else {}))
    version = await train(engine, data.name, data.train, config, out)
    out.section("", describe_training(version))
    return version


async def teach_tone(engine: AdapterLearningEngine, out: Output) -> ToneResult:
    """Teaches a second adapter to answer as a company does; rules judge its form on unseen messages."""
    data = read_task(TONE)
    rules = read_rules(examples_path() / TONE / "rules.json")
    out.section(
        "",
        f"The second task: answer as a bicycle shop does. {len(data.train)} of its answers are there to"
        f" learn from. Answers to {len(data.heldout)} other messages must:",
        *(f"    {rule.name}" for rule in rules),
    )
    with out.waiting("The base model answers"):
        before = (await engine.evaluate_adapter(None, data.heldout)).unwrap()
    version = await train_or_load(engine, data, out)
    with out.waiting(f"{version.ref} answers"):
        after = (await engine.evaluate_adapter(version.ref, data.heldout)).unwrap()
    result = ToneResult(
        version,
        len(data.heldout),
        count_keeping(rules, data.heldout, before),
        count_keeping(rules, data.heldout, after),
    )
    # A wrong answer shows more than one that equals the expected text: the adapter wrote it itself.
    shown = next((i for i, is_right in enumerate(after.right) if not is_right), 0)
    out.section(
        "",
        f'"{data.heldout[shown].input}"',
        *(f"    {line}" for line in after.answers[shown].strip().splitlines()),
        "",
        f"Without an adapter {result.before} of {result.answers} answers keep all rules;"
        f" {result.after} of {result.answers} by {version.ref} do.",
    )
    return result


def count_keeping(
    rules: Sequence[AnswerRule], examples: Sequence[TrainingExample], evaluation: Evaluation
) -> int:
    """Number of answers that keep all rules."""
    pairs = zip(examples, evaluation.answers, strict=True)
    return sum(not list_broken_rules(rules, example.input, answer) for example, answer in pairs)


def tone_json(tone: ToneResult | None) -> dict[str, Any] | None:
    """Returns the result of the second task as JSON; None if it did not run."""
    if tone is None:
        return None
    return {
        "version": describe.version_json(tone.version),
        "answers": tone.answers,
        "before": tone.before,
        "after": tone.after,
    }


async def correct_and_undo(
    engine: AdapterLearningEngine, version: Version, data: DemoTask, after: Evaluation, out: Output
) -> Correction | None:
    """Corrects the first wrong answer, measures what else changed, and rolls the adapter back.

    Returns None if every answer is right.
    """
    wrong = [i for i, is_right in enumerate(after.right) if not is_right]
    if not wrong:
        out.section("", "Every answer is right, so there is none to correct.")
        return None
    index, example = wrong[0], data.heldout[wrong[0]]
    question, answer, wanted = str(example.input), after.answers[wrong[0]], example.output
    out.section(
        "",
        f"A user corrects one of the wrong answers of {version.ref}:",
        f'    "{question}"',
        f"    {describe.one_line(answer)}  ->  {wanted}",
    )
    # 1. The correction. Its own key makes it count anew in each run of the demo.
    key = f"demo {len((await engine.get_versions(TASK)).unwrap())}"
    started = perf_counter()
    with out.waiting("Learning the correction"):
        signal = FeedbackSignal.user_correction(wanted)
        ticket = (await engine.learn_from_feedback(question, answer, signal, TASK, key=key)).unwrap()
    seconds = perf_counter() - started
    learned = ticket.version if ticket.version and ticket.version.number != version.number else None
    lesson = ticket.lesson.words if ticket.lesson else "pending"
    # 2. The same questions again: this answer, and all others.
    now = await evaluate(engine, str(learned.ref), data, out) if learned else after
    changed = tuple(
        ComparedAnswers(str(other.input), other.output, old, new)
        for i, (other, old, new) in enumerate(zip(data.heldout, after.answers, now.answers, strict=True))
        if i != index and old != new
    )
    # 3. The way back: the earlier version is served again, with the answer that it gave.
    if (await engine.get_version(TASK)).unwrap().number != version.number:
        (await engine.rollback_adapter(version.ref)).unwrap()
    undone = (await engine.generate_with_adapter(question, TASK)).unwrap().text
    correction = Correction(
        question,
        answer,
        wanted,
        lesson,
        str(learned.ref) if learned else None,
        seconds,
        now.answers[index],
        len(data.heldout) - 1,
        (after.correct, now.correct - now.right[index]),
        changed,
        undone == answer,
    )
    out.section(*format_correction(correction, version))
    return correction


def correction_json(correction: Correction | None) -> dict[str, Any] | None:
    """Returns the result of the correction as JSON; None if there was nothing to correct."""
    if correction is None:
        return None
    return asdict(correction) | {"others_right": list(correction.others_right)}


def format_answers(
    examples: Sequence[TrainingExample], before: Evaluation, after: Evaluation
) -> list[str]:
    """Formats a few held-out questions with the answers without and with the adapter."""
    lines = []
    for example, without, with_it in list(zip(examples, before.answers, after.answers, strict=True))[
        :SHOWN
    ]:
        lines += [
            f'\n"{example.input}"',
            f"    expected  {example.output}",
            f"    without   {describe.one_line(without)}",
            f"    with      {describe.one_line(with_it)}",
        ]
    return lines


def format_scores(version: Version, before: Evaluation, after: Evaluation, out: Output) -> str:
    """Formats the held-out scores of the base and of the adapter as a table."""
    rows = [
        ("base model", describe.percent(before), f"{before.mean_logprob:.2f}"),
        (str(version.ref), describe.percent(after), f"{after.mean_logprob:.2f}"),
    ]
    return out.table(("held-out score", "right", "log-probability per token"), rows)


def format_correction(correction: Correction, version: Version) -> list[str]:
    """Formats what a correction did to the corrected answer and to the others, and that it is undone."""
    if correction.version is None:
        return [f"It made no new version: {correction.lesson}."]
    lines = [
        f"Learned in {correction.seconds:.1f} s as {correction.version}: {correction.lesson}.",
        f"    the corrected answer   {describe.one_line(correction.corrected)}",
        f"    the other {correction.others} answers   {len(correction.changed)} changed;"
        f" right before: {correction.others_right[0]}, right now: {correction.others_right[1]}",
    ]
    for other in correction.changed[:SHOWN]:
        question = describe.one_line(other.prompt, 50)
        change = f"{describe.one_line(other.before, 20)} -> {describe.one_line(other.after, 20)}"
        lines.append(f'        "{question}"  {change} (expected {other.expected})')
    served = "gives the old answer again" if correction.restored else "gives another answer"
    return [*lines, f"Undone: {version.ref} is served again and {served}."]


def describe_training(version: Version) -> str:
    """Returns, for example: tickets@2 learned 90 examples in 11 s (845 KiB)."""
    report = version.report
    took = f" {report.rows} examples in {report.seconds:.0f} s" if report else ""
    return (
        f"{version.ref} learned{took} ({describe.size(version.size)}). The other examples are kept to"
        " test later versions."
    )


def next_commands(data: DemoTask, tone: ToneResult | None, settings: Settings) -> list[str]:
    """Formats three commands to try with the adapters that the demo has trained."""
    where = [] if settings.store == DEFAULTS.store else ["--store", settings.store]
    where += [] if settings.model == DEFAULTS.model else ["--model", settings.model]
    example = data.heldout[0]
    commands = (
        ("chat", TONE) if tone else ("generate", TASK, str(example.input)),
        ("feedback", TASK, str(example.input), "--fix", example.output),
        ("explain", TASK),
    )
    return ["", "Try next:", *(f"    {program_name()} {shlex.join([*c, *where])}" for c in commands)]
