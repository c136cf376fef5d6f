"""`ouroboros evaluate NAME FILE`."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.data.examples import read_examples
from ouroboros.domain.data import TrainingExample
from ouroboros.domain.errors import InvalidInput
from ouroboros.engine import AdapterLearningEngine
from ouroboros.settings import Settings

NAME = "evaluate"
HELP = "count how many examples of a file an adapter answers exactly"
EXAMPLES = """\
  ouroboros evaluate tickets heldout.jsonl
  ouroboros evaluate tickets                    its probes, which test every new version
  ouroboros evaluate tickets@1 heldout.jsonl    version 1 is the base model"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter, or one version: tickets@2")
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, help="JSON lines, as for train")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    examples = read_examples(options.file) if options.file else []
    require_store(settings)
    async with open_engine(settings) as engine:
        examples = examples or await read_probes(engine, options.name)
        with out.waiting(f"Answering {len(examples)} examples"):
            evaluation = (await engine.evaluate_adapter(options.name, examples)).unwrap()
    out.result(
        describe.evaluation_json(evaluation),
        f"{options.name}: {describe.percent(evaluation)} right,"
        f" mean log-probability {evaluation.mean_logprob:.3f} per token.",
    )


async def read_probes(engine: AdapterLearningEngine, name: str) -> list[TrainingExample]:
    probes = (await engine.get_probes(name)).unwrap()
    if not probes:
        raise InvalidInput(
            f"{name} has no probes yet: none of its examples were held out.",
            hint="Give a file of examples.",
        )
    return [probe.example for probe in probes]
