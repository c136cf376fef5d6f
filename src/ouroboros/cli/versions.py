"""`ouroboros versions NAME`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.records import HeadMoved, Version
from ouroboros.domain.tracking import UsageCounts
from ouroboros.settings import Settings

NAME = "versions"
HELP = "list an adapter's versions, what was said of them, what the gate did, how the served one moved"
EXAMPLES = """\
  ouroboros versions tickets
  ouroboros versions tickets --json"""

_HEADER = ("", "version", "from", "learned", "judged right", "when", "how")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        adapter = (await engine.get_adapter(options.name)).unwrap()
        found = (await engine.track_adapter(options.name)).unwrap()
        moves = (await engine.get_moves(options.name)).unwrap()
    rows = [_row(v, use, served=v.number == adapter.head) for v, use in found.versions]
    notes = [describe.gated(found.gated)] if found.gated.judged else []
    notes += [f"Judgements are {found.trend}."] if found.trend else []
    out.result(
        {
            "name": adapter.id.name,
            "head": adapter.head,
            "versions": [
                describe.version_json(v) | {"use": describe.use_json(use)} for v, use in found.versions
            ],
            "use": describe.use_json(found.use),
            "trend": found.trend,
            "gate": asdict(found.gated),
            "moves": [describe.move_json(m) for m in moves],
        },
        out.table(_HEADER, rows),
        *(["", *notes, *map(_move, moves)] if notes or moves else []),
    )


def _row(version: Version, use: UsageCounts, served: bool) -> tuple[str, ...]:
    return (
        "*" if served else "-" if version.refused else "",
        f"@{version.number}",
        describe.parents(version),
        describe.events(version),
        describe.judged(use),
        describe.when(version.created_at),
        describe.trained(version),
    )


def _move(move: HeadMoved) -> str:
    replayed = ", feedback since to be learned again" if move.replayed else ""
    reason = f": {move.reason}" if move.reason else ""
    return f"{describe.when(move.at)}  @{move.before} -> @{move.after}{replayed}{reason}"
