"""`ouroboros versions NAME`."""

from argparse import ArgumentParser, Namespace

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.records import HeadMoved, Version
from ouroboros.settings import Settings

NAME = "versions"
HELP = "list an adapter's versions, and how the served one was moved"
EXAMPLES = """\
  ouroboros versions tickets
  ouroboros versions tickets --json"""

_HEADER = ("", "version", "from", "events", "size", "when", "how")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        adapter = (await engine.get_adapter(options.name)).unwrap()
        versions = (await engine.get_versions(options.name)).unwrap()
        moves = (await engine.get_moves(options.name)).unwrap()
    found = {
        "name": adapter.id.name,
        "head": adapter.head,
        "versions": [describe.version_json(v) for v in versions],
        "moves": [describe.move_json(m) for m in moves],
    }
    table = out.table(_HEADER, [_row(v, served=v.number == adapter.head) for v in versions])
    out.result(found, table, *(["", *map(_move, moves)] if moves else []))


def _row(version: Version, served: bool) -> tuple[str, ...]:
    return (
        "*" if served else "",
        f"@{version.number}",
        describe.parents(version),
        describe.events(version),
        describe.size(version.size),
        describe.when(version.created_at),
        describe.trained(version),
    )


def _move(move: HeadMoved) -> str:
    replayed = ", feedback since to be learned again" if move.replayed else ""
    reason = f": {move.reason}" if move.reason else ""
    return f"{describe.when(move.at)}  @{move.before} -> @{move.after}{replayed}{reason}"
