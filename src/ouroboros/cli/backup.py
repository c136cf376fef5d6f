"""`ouroboros backup FILE`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.settings import Settings

NAME = "backup"
HELP = "write the whole store into one file"
EXAMPLES = """\
  ouroboros backup store.zip
  ouroboros backup store.zip --store ./elsewhere"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="a new file")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        with out.waiting(f"Writing {options.file}"):
            contents = (await engine.backup_store(options.file)).unwrap()
        adapters = (await engine.list_adapters()).unwrap()
    size = options.file.stat().st_size
    out.result(
        asdict(contents) | {"file": str(options.file), "bytes": size, "adapters": len(adapters)},
        f"Wrote {options.file} ({describe.size(size)}): {describe.count(len(adapters), 'adapter')},"
        f" {contents.records} records, {contents.logs} logs, {contents.blobs} blobs.",
    )
