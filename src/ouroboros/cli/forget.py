"""`ouroboros forget NAME EVENT ...` and `ouroboros forget --user USER`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.errors import InvalidInput
from ouroboros.domain.results import Erasure
from ouroboros.settings import Settings

NAME = "forget"
HELP = "erase events or a user's feedback, and rebuild the versions that learned from them"
EXAMPLES = """\
  ouroboros forget tickets 4         event 4; `ouroboros lineage tickets` lists events
  ouroboros forget tickets 4 7 8
  ouroboros forget --user ann        ann's feedback to every adapter
  ouroboros forget tickets           resume an interrupted erasure"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="the adapter")
    parser.add_argument("events", metavar="EVENT", nargs="*", type=int, help="event numbers")
    parser.add_argument("--user", metavar="USER", help="erase all feedback of this user")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    if bool(options.name) == bool(options.user):
        raise InvalidInput(
            "Name an adapter and its events, or a user.", hint="Like: ouroboros forget tickets 4"
        )
    require_store(settings)
    async with open_engine(settings) as engine:
        with out.waiting("Erasing"):
            if options.user:
                erasure = (await engine.forget_user(options.user)).unwrap()
            else:
                erasure = (await engine.forget_events(options.name, *options.events)).unwrap()
    out.result(erasure_json(erasure), *format_erasure(erasure))


def erasure_json(erasure: Erasure) -> dict[str, Any]:
    """Returns what was erased, rebuilt and is pending, as JSON."""
    return {
        "events": {adapter.name: list(numbers) for adapter, numbers in erasure.events.items()},
        "removed": [str(ref) for ref in erasure.removed],
        "remade": {str(old): str(new) if new else None for old, new in erasure.remade},
        "pending": {adapter.name: reason for adapter, reason in erasure.pending.items()},
    }


def format_erasure(erasure: Erasure) -> list[str]:
    """Formats what was erased and rebuilt, and what has to be tried again."""
    if not (erasure.events or erasure.remade or erasure.pending):
        return ["There was nothing to forget."]
    lines = [
        f"Erased {describe.event_numbers(numbers)} of {a}." for a, numbers in erasure.events.items()
    ]
    lines += [f"Rebuilt {old} as {new}." for old, new in erasure.remade if new]
    lines += [f"Nothing remains of {old}." for old, new in erasure.remade if not new]
    lines += [
        f"{adapter} is not rebuilt yet ({reason}), and serves what it had learned before. Try again:"
        f" ouroboros forget {adapter}"
        for adapter, reason in erasure.pending.items()
    ]
    removed = describe.count(len(erasure.removed), "version")
    if erasure.removed:
        lines.append(f"Removed {removed} that had learned from it.")
    elif erasure.events:
        lines.append("No version had learned from it.")
    return lines
