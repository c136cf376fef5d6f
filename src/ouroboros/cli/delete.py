"""`ouroboros delete NAME`."""

from argparse import ArgumentParser, Namespace

from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.settings import Settings

NAME = "delete"
HELP = "delete an adapter and all its versions"
EXAMPLES = """\
  ouroboros delete tickets"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        versions = (await engine.get_versions(options.name)).unwrap()
        (await engine.delete_adapter(options.name)).unwrap()
    out.result(
        {"deleted": options.name, "versions": len(versions)},
        f"Deleted {options.name} and its {len(versions)} version{'s' if len(versions) != 1 else ''}.",
    )
