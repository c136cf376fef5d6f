"""`ouroboros find TEXT`."""

from argparse import ArgumentParser, Namespace

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.routing import RouteMatch
from ouroboros.settings import Settings

NAME = "find"
HELP = "find the adapters that match a prompt or a task"
EXAMPLES = """\
  ouroboros find "Where is my parcel?"
  ouroboros find "customers asking about money" -k 10
  ouroboros generate auto "Where is my parcel?"    use the best match"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="a prompt, or a description of the task")
    parser.add_argument("-k", type=int, default=5, metavar="N", help="the most adapters to list (5)")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        matches = (await engine.find_adapters(options.text, options.k)).unwrap()
    rows = [
        (f.adapter.name, f"{f.similarity:.2f}", format_threshold(f), "yes" if f.sure else "no")
        for f in matches
    ]
    table = out.table(("adapter", "similarity", "threshold", "match"), rows)
    out.result([describe.route_json(f) for f in matches], table if matches else "There are no adapters.")
    if matches and matches[0].sure:
        out.next_step("generate", matches[0].adapter.name, options.text)
    elif matches:
        out.note("No adapter is close enough: `ouroboros generate auto` would use the base model.")


def format_threshold(match: RouteMatch) -> str:
    """Formats the required similarity; an adapter that has learned nothing never matches."""
    return f"{match.needed:.2f}" if match.needed <= 1 else "-"
