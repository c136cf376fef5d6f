"""`ouroboros versions NAME`."""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.performance import UsageCounts
from ouroboros.domain.records import HeadMoved, Version
from ouroboros.settings import Settings

NAME = "versions"
HELP = "list an adapter's versions with their judgements, the gate's results and the moves of the head"
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
        performance = (await engine.track_adapter(options.name)).unwrap()
        moves = (await engine.get_moves(options.name)).unwrap()
    rows = [format_row(v, use, served=v.number == adapter.head) for v, use in performance.versions]
    notes = [describe.gate_counts(performance.gate_counts)] if performance.gate_counts.judged else []
    notes += [f"Judgements are {performance.trend}."] if performance.trend else []
    out.result(
        {
            "name": adapter.id.name,
            "head": adapter.head,
            "versions": [
                describe.version_json(v) | {"use": describe.use_json(use)}
                for v, use in performance.versions
            ],
            "use": describe.use_json(performance.usage),
            "trend": performance.trend,
            "gate": asdict(performance.gate_counts),
            "moves": [describe.move_json(m) for m in moves],
        },
        out.table(_HEADER, rows),
        *(["", *notes, *map(format_move, moves)] if notes or moves else []),
    )


def format_row(version: Version, use: UsageCounts, served: bool) -> tuple[str, ...]:
    """Formats a version and its judgements as a row of the table."""
    return (
        "*" if served else "-" if version.refused else "",
        f"@{version.number}",
        describe.parents(version),
        describe.events(version),
        describe.judgements(use),
        describe.local_time(version.created_at),
        describe.origin(version),
    )


def format_move(move: HeadMoved) -> str:
    """Formats a move of the head on one line."""
    replayed = ", feedback since then will be learned again" if move.replayed else ""
    reason = f": {move.reason}" if move.reason else ""
    return f"{describe.local_time(move.at)}  @{move.before} -> @{move.after}{replayed}{reason}"
