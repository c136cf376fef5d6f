"""`ouroboros explain ADAPTER@VERSION`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.settings import Settings

NAME = "explain"
HELP = "show why a version was promoted or refused, with every number"
EXAMPLES = """\
  ouroboros explain tickets            the served version
  ouroboros explain tickets@3
  ouroboros explain tickets@3 --json"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "name", metavar="ADAPTER@VERSION", help="the version; without a number, the head"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        explanation = (await engine.explain_version(options.name)).unwrap()
    verdict = explanation.version.verdict
    value = describe.version_json(explanation.version) | {
        "verdict": asdict(verdict) if verdict else None
    }
    out.result(value, *explanation.lines)
