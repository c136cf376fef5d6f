"""`ouroboros forget NAME EVENT ...` and `ouroboros forget --user USER`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.results import Erasure
from ouroboros.settings import Settings

NAME = "forget"
HELP = "erase what was given, and make again without it what had learned it"
EXAMPLES = """\
  ouroboros forget tickets 4         event 4; ouroboros lineage tickets shows which learned what
  ouroboros forget tickets 4 7 8
  ouroboros forget --user ann        whatever ann said, to any adapter
  ouroboros forget tickets           go on with a forgetting that was interrupted"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the adapter")
    parser.add_argument("events", metavar="EVENT", nargs="*", type=int, help="numbers of events")
    parser.add_argument("--user", metavar="USER", help="forget this user instead")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    if bool(options.name) == bool(options.user):
        raise InvalidInput(
            "Name an adapter and its events, or a user.", hint="Like: ouroboros forget tickets 4"
        )
    require_store(settings)
    async with open_engine(settings) as engine:
        with out.waiting("Forgetting"):
            if options.user:
                erasure = (await engine.forget_user(options.user)).unwrap()
            else:
                erasure = (await engine.forget_events(options.name, *options.events)).unwrap()
    out.result(erasure_json(erasure), *format_erasure(erasure))


def erasure_json(erasure: Erasure) -> dict[str, Any]:
    return {
        "events": {adapter.name: list(numbers) for adapter, numbers in erasure.events.items()},
        "removed": [str(ref) for ref in erasure.removed],
        "remade": {str(old): str(new) if new else None for old, new in erasure.remade},
    }


def format_erasure(erasure: Erasure) -> list[str]:
    if not erasure.events:
        return ["There was nothing to forget."]
    lines = [
        f"Erased {describe.event_numbers(numbers)} of {a}." for a, numbers in erasure.events.items()
    ]
    lines += [f"{old} was made again as {new}." for old, new in erasure.remade if new]
    lines += [f"Of {old} nothing was left." for old, new in erasure.remade if not new]
    removed = describe.count(len(erasure.removed), "version")
    return [
        *lines,
        f"Removed {removed} that stood on it." if erasure.removed else "No version stood on it.",
    ]
