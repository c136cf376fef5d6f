"""`ouroboros restore FILE`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine
from ouroboros.settings import Settings

NAME = "restore"
HELP = "fill an empty store from a backup"
EXAMPLES = """\
  ouroboros restore store.zip --store ./restored"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a file that `backup` wrote")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    async with open_engine(settings) as engine:
        with out.waiting(f"Reading {options.file}"):
            contents = (await engine.restore_store(options.file)).unwrap()
        adapters = (await engine.list_adapters()).unwrap()
    out.result(
        asdict(contents) | {"adapters": [a.id.name for a in adapters]},
        f"Restored {describe.count(len(adapters), 'adapter')} into {settings.store}.",
    )
