"""`ouroboros train NAME FILE`."""

from __future__ import annotations

import shlex
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ouroboros.cli import describe
from ouroboros.cli.interrupts import INTERRUPTS
from ouroboros.cli.output import Output, program_name
from ouroboros.cli.parser import given_options
from ouroboros.cli.progress import training_progress
from ouroboros.cli.store import open_engine, require_store
from ouroboros.data.reader import describe_ignored, read_data
from ouroboros.domain.cancel import CancellationToken
from ouroboros.domain.config import TrainingConfig
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import Cancelled
from ouroboros.domain.records import Version
from ouroboros.domain.result import Result
from ouroboros.domain.training import JobState
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "train"
HELP = "train an adapter on the examples of a file, as a new version"
EXAMPLES = """\
  ouroboros train tickets train.jsonl
  ouroboros train tickets more.jsonl --epochs 2 --incremental
  ouroboros train tickets - < train.jsonl
  ouroboros train tickets monday.csv ./more-files

Files are JSON lines, a JSON array, CSV, TSV or Parquet, also in gzip. A row is in the format of OpenAI,
TRL, Alpaca or ShareGPT, or has two columns such as question and answer:
  {"prompt": "Where is my parcel?", "completion": "delivery"}
  {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]}
`ouroboros data check FILE` shows what is understood of a file."""

PRESETS = {
    "default": TrainingConfig.default,
    "fast": TrainingConfig.fast,
    "thorough": TrainingConfig.thorough,
}
_FIELDS = {"epochs": "epochs", "batch_size": "batch_size", "seed": "seed"}
_FIELDS |= {"incremental": "incremental_update", "rate": "learning_rate"}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")
    parser.add_argument(
        "files", metavar="FILE", type=Path, nargs="+", help="files or folders of examples; - reads stdin"
    )
    parser.add_argument(
        "--preset",
        choices=("auto", *PRESETS),
        default="auto",
        help="the values that the options below override",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="passes over the examples")
    parser.add_argument("--batch-size", type=int, metavar="N", help="examples per optimizer step")
    parser.add_argument(
        "--rate",
        "--lr",
        type=float,
        metavar="RATE",
        help="peak learning rate of this training (default: the adapter's)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="seed for the order of the examples")
    parser.add_argument(
        "--incremental",
        action="store_true",
        default=None,
        help="for small additions: the rate does not decay",
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    changes = {_FIELDS[k]: v for k, v in given_options(options, *_FIELDS).items()}
    data = read_data(options.files)
    examples = data.examples()
    if data.ignored:
        out.note(describe_ignored(data.ignored))
    require_store(settings)
    async with open_engine(settings) as engine:
        (await engine.get_adapter(options.name)).unwrap()
        with out.waiting(f"Loading {settings.model}"):
            (await engine.base()).unwrap()
        config = training_config(options.preset, len(examples), changes)
        version = await train(engine, options.name, examples, config, out)
    lines = [f"{version.ref} {describe.origin(version)}."]
    lines += [f"{describe.verdict(version)}."] if version.verdict else []
    out.result(describe.version_json(version), *lines)
    if version.report and version.report.advice:
        out.note(f"Note: {version.report.advice}")
    out.next_step("generate", version.adapter.name, "your prompt")


async def train(
    engine: AdapterLearningEngine,
    name: str,
    examples: Sequence[TrainingExample],
    config: TrainingConfig,
    out: Output,
) -> Version:
    """Trains an adapter and shows the progress."""
    token = CancellationToken()
    with pausable(token, out), training_progress(out) as on_progress:
        result = await engine.train_adapter(
            name, examples, config, on_progress=on_progress, cancel=token
        )
    return await unwrap_paused(engine, name, result, token)


@contextmanager
def pausable(token: CancellationToken, out: Output) -> Iterator[None]:
    """Lets the first Ctrl-C or SIGTERM keep a checkpoint; the next one stops the training at once."""

    def pause() -> None:
        token.pause()
        out.note("Stopping after this step. Once more stops at once, without a checkpoint.")

    with INTERRUPTS.call_on_stop(pause):
        yield


async def unwrap_paused(
    engine: AdapterLearningEngine, name: str, result: Result[Version], token: CancellationToken
) -> Version:
    """Returns the version, or raises an error that names the command to resume a paused training."""
    if result or not token.pausing or not isinstance(result.error, Cancelled):
        return result.unwrap()
    jobs = (await engine.list_jobs(name)).unwrap()
    paused = [job for job in jobs if job.state is JobState.PAUSED]
    if not paused:
        return result.unwrap()
    job = paused[-1]
    raise Cancelled(
        f"Stopped at step {job.step} of {job.steps}.",
        hint=f"Go on with: {program_name()} jobs --resume {shlex.quote(job.id)}",
    )


def training_config(preset: str, examples: int, changes: dict[str, Any]) -> TrainingConfig:
    """Returns the preset, or what suits the number of examples, with single fields changed."""
    if preset == "auto":
        return TrainingConfig.auto(examples, **changes)
    return replace(PRESETS[preset](), **changes)
