"""`ouroboros gc`."""

from argparse import ArgumentParser, Namespace
from datetime import timedelta

from ouroboros.build import open_engine
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.checks import check_number
from ouroboros.settings import Settings

NAME = "gc"
HELP = "remove weights that no version has used for an hour"
EXAMPLES = """\
  ouroboros gc
  ouroboros gc --grace 0    at once: only when nothing else uses the store"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--grace", type=float, default=60.0, metavar="MINUTES", help="unused for this long (60)"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    check_number("--grace", options.grace, 0, 60 * 24 * 365)
    require_store(settings)
    async with open_engine(settings) as engine:
        removed = (await engine.collect_garbage(timedelta(minutes=options.grace))).unwrap()
        unused = (await engine.check_store()).unwrap().unused
    waiting = f"; {len(unused)} wait for their grace to end" if unused else ""
    out.result(
        {"removed": removed, "waiting": list(unused)},
        f"Removed {len(removed)} unused sets of weights{waiting}.",
    )
