"""`ouroboros demo`: create, train and evaluate an adapter on a bundled task."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.train import train
from ouroboros.data.examples import read_examples
from ouroboros.domain.config import AdapterConfig, TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Conflict
from ouroboros.domain.records import Version
from ouroboros.domain.results import Evaluation
from ouroboros.engine import AdapterLearningEngine
from ouroboros.settings import DEFAULTS, Settings
from ouroboros.starter import examples_path

NAME = "demo"
HELP = "train an adapter on 100 bundled examples, and score it on 60 others before and after"
EXAMPLES = """\
  ouroboros demo
  ouroboros demo --model Qwen/Qwen3-0.6B --store ./qwen-store"""

TASK = "tickets"
DESCRIPTION = "the demo: which team a customer's message is for"
"""The description that marks the demo's adapter."""

SHOWN = 4
"""Number of held-out questions whose answers are printed."""


@dataclass(frozen=True)
class DemoTask:
    """The bundled task: examples to train on, and others to evaluate with."""

    train: list[TrainingExample]
    heldout: list[TrainingExample]


def add_arguments(parser: ArgumentParser) -> None:
    """This verb has no arguments."""


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    folder = examples_path() / TASK
    data = DemoTask(read_examples(folder / "train.jsonl"), read_examples(folder / "heldout.jsonl"))
    out.note(
        f"The task: send a customer's message to one of {len({e.output for e in data.train})} teams,"
        f" learned from {len(data.train)} examples."
    )
    async with open_engine(settings) as engine:
        with out.waiting(f"Loading the model {settings.model}"):
            (await engine.base()).unwrap()
        before = await evaluate(engine, None, data, out)
        version = await train_or_load(engine, data, out)
        after = await evaluate(engine, str(version.ref), data, out)
    out.result(
        {
            "before": describe.evaluation_json(before),
            "after": describe.evaluation_json(after),
            "version": describe.version_json(version),
        },
        *format_answers(data.heldout, before, after),
        "",
        format_scores(version, before, after, out),
        "",
        f"{version.ref} learned {describe_training(version)}. It is stored in {settings.store}.",
    )
    where = [] if settings.store == DEFAULTS.store else ["--store", settings.store]
    where += [] if settings.model == DEFAULTS.model else ["--model", settings.model]
    out.next_step("generate", TASK, str(data.heldout[0].input), *where)


async def evaluate(
    engine: AdapterLearningEngine, adapter: str | None, data: DemoTask, out: Output
) -> Evaluation:
    with out.waiting(
        f"Evaluating {adapter or 'the base model'} on {len(data.heldout)} held-out questions"
    ):
        return (await engine.evaluate_adapter(adapter, data.heldout)).unwrap()


async def train_or_load(engine: AdapterLearningEngine, data: DemoTask, out: Output) -> Version:
    """Returns the head of the demo's adapter, and trains it unless an earlier demo has done so."""
    names = [a.id.name for a in (await engine.list_adapters()).unwrap()]
    if TASK not in names:
        base = (await engine.base()).unwrap()
        config = AdapterConfig.auto(base)
        (await engine.create_adapter(TASK, config, description=DESCRIPTION)).unwrap()
    adapter = (await engine.get_adapter(TASK)).unwrap()
    if adapter.description != DESCRIPTION:
        raise Conflict(
            f"The store's adapter {TASK!r} is not the demo's.",
            hint="Use a separate store for the demo: --store ./demo-store",
        )
    versions = (await engine.get_versions(TASK)).unwrap()
    head = next(version for version in versions if version.number == adapter.head)
    if head.report is None:
        config = TrainingConfig.auto(len(data.train))
        return await train(engine, TASK, data.train, config, out)
    out.note(f"{head.ref} was trained by an earlier demo; only the evaluation runs again.")
    return head


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
            f"    without   {_one_line(without)}",
            f"    with      {_one_line(with_it)}",
        ]
    return lines


def format_scores(version: Version, before: Evaluation, after: Evaluation, out: Output) -> str:
    rows = [
        ("base model", describe.percent(before), f"{before.mean_logprob:.2f}"),
        (str(version.ref), describe.percent(after), f"{after.mean_logprob:.2f}"),
    ]
    return out.table(("held-out score", "right", "log-probability per token"), rows)


def describe_training(version: Version) -> str:
    """Returns, for example: 90 examples in 11 s (845 KiB)."""
    report = version.report
    took = f"{report.rows} examples in {report.seconds:.0f} s" if report else ""
    return f"{took} ({describe.size(version.size)}); the others are held out to test later versions"


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 70 else f"{line[:69]}…"
