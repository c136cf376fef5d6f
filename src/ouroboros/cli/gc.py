"""`ouroboros gc`."""

from argparse import ArgumentParser, Namespace
from datetime import timedelta

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.checks import check_number
from ouroboros.settings import Settings

NAME = "gc"
HELP = "remove weights that no version has used for an hour"
EXAMPLES = """\
  ouroboros gc
  ouroboros gc --grace 0    immediately; only safe while no other program uses the store"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--grace",
        type=float,
        default=60.0,
        metavar="MINUTES",
        help="remove what has been unused for this long (60)",
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    check_number("--grace", options.grace, 0, 60 * 24 * 365)
    require_store(settings)
    async with open_engine(settings) as engine:
        removed = (await engine.collect_garbage(timedelta(minutes=options.grace))).unwrap()
        unused = (await engine.check_store()).unwrap().unused
    waiting = f"; {len(unused)} more are still within the grace period" if unused else ""
    out.result(
        {"removed": removed, "waiting": list(unused)},
        f"Removed {describe.count(len(removed), 'unused set')} of weights{waiting}.",
    )
