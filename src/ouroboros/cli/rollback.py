"""`ouroboros rollback NAME@N`."""

from argparse import ArgumentParser, Namespace

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.settings import Settings

NAME = "rollback"
HELP = "serve another version of an adapter; undo it the same way"
EXAMPLES = """\
  ouroboros rollback tickets@2
  ouroboros rollback tickets@2 --replay    learn the feedback given since again"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME@N", help="the version to serve, older or newer")
    parser.add_argument(
        "--replay",
        action="store_true",
        help="learn the feedback given since again, together with the next",
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        before = (await engine.get_version(options.name.partition("@")[0])).unwrap()
        adapter = (await engine.rollback_adapter(options.name, replay=options.replay)).unwrap()
    moved = adapter.head != before.number
    sentence = f"{adapter.id} {'now' if moved else 'already'} serves @{adapter.head}"
    out.result(
        describe.adapter_json(adapter) | {"before": before.number},
        f"{sentence} instead of @{before.number}." if moved else f"{sentence}.",
    )
    if moved:
        out.next_step("rollback", str(before.ref))
