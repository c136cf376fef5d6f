"""`ouroboros show NAME`."""

from argparse import ArgumentParser, Namespace

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.records import Version
from ouroboros.settings import Settings

NAME = "show"
HELP = "show an adapter and its versions"
EXAMPLES = """\
  ouroboros show tickets
  ouroboros show tickets --json"""

_HEADER = ("version", "from", "size", "when", "how")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        adapter = (await engine.get_adapter(options.name)).unwrap()
        versions = (await engine.get_versions(options.name)).unwrap()
    value = describe.adapter_json(adapter) | {"versions": [describe.version_json(v) for v in versions]}
    out.result(
        value,
        f"{adapter.id} on {adapter.base_name}: {describe.shape(adapter)}; serves @{adapter.head}.",
        "",
        out.table(_HEADER, [format_row(v) for v in versions]),
    )


def format_row(version: Version) -> tuple[str, ...]:
    """Formats a version as a row of the table."""
    return (
        f"@{version.number}",
        f"@{version.parent}" if version.parent else "",
        describe.size(version.size),
        describe.local_time(version.created_at),
        describe.origin(version),
    )
