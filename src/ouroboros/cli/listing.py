"""`ouroboros list`."""

from argparse import ArgumentParser, Namespace

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, store_exists
from ouroboros.domain.records import Adapter
from ouroboros.settings import Settings

NAME = "list"
HELP = "list the adapters of a store"
EXAMPLES = """\
  ouroboros list
  ouroboros list --store ./elsewhere --json
  ouroboros list --limit 100 --after customer-100"""

_HEADER = ("name", "head", "shape", "base", "created")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, metavar="N", help="list at most this many (default: all)")
    parser.add_argument(
        "--after", default="", metavar="NAME", help="list only names that sort after this one"
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    adapters: list[Adapter] = []
    if store_exists(settings):
        async with open_engine(settings) as engine:
            adapters = (await engine.list_adapters(after=options.after, limit=options.limit)).unwrap()
    values = [describe.adapter_json(a) for a in adapters]
    if not adapters and options.after:
        out.result(values, f"No adapter in {settings.store} sorts after {options.after}.")
        return
    if not adapters:
        out.result(values, f"No adapters in {settings.store} yet.")
        out.next_step("create", "NAME")
        return
    out.result(values, out.table(_HEADER, [format_row(a) for a in adapters]))


def format_row(adapter: Adapter) -> tuple[str, ...]:
    """Formats an adapter as a row of the table."""
    return (
        adapter.id.name,
        f"@{adapter.head}",
        describe.shape(adapter),
        adapter.base_name,
        describe.local_time(adapter.created_at),
    )
