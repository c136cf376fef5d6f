"""`ouroboros lineage NAME`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.picture import draw_lineage
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.data import to_messages
from ouroboros.domain.errors import InvalidFile
from ouroboros.domain.events import FeedbackGiven
from ouroboros.domain.names import VersionRef
from ouroboros.domain.records import Version
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine
    from ouroboros.registry.journal import JournalEntry

NAME = "lineage"
HELP = "show where a version comes from: its ancestors and the events they learned"
EXAMPLES = """\
  ouroboros lineage tickets@5            one version and its ancestors
  ouroboros lineage tickets              all versions of an adapter
  ouroboros lineage tickets --svg tickets.svg"""

SHOWN = 5
"""Number of events printed for each version; --json has all of them."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter, or one version: tickets@5")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="also draw it into this file")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        versions = (await engine.get_lineage(options.name)).unwrap()
        events = {v.ref: (await engine.get_events(v.ref)).unwrap() for v in versions}
        heads = await find_heads(engine, versions)
    if options.svg:
        write_file(options.svg, draw_lineage(versions, heads))
    out.result(
        [
            describe.version_json(v)
            | {"head": v.ref in heads, "learned": [event_json(e) for e in events[v.ref]]}
            for v in versions
        ],
        *(line for v in reversed(versions) for line in format_version(v, events[v.ref], v.ref in heads)),
    )


async def find_heads(engine: AdapterLearningEngine, versions: list[Version]) -> set[VersionRef]:
    """Returns the heads of all adapters that these versions belong to."""
    adapters = [(await engine.get_adapter(n)).unwrap() for n in {v.adapter for v in versions}]
    return {VersionRef(a.id, a.head) for a in adapters}


def format_version(version: Version, events: list[JournalEntry], served: bool) -> list[str]:
    """Formats a version with its parents, and below it the events it learned."""
    parents = ", ".join(str(p) for p in version.parents)
    lines = [
        f"{'*' if served else 'o'} {version.ref}  {describe.local_time(version.created_at)}"
        f"  {describe.origin(version)}{f'  from {parents}' if parents else ''}"
    ]
    lines += [f"|   event {e.seq}: {describe_event(e)}" for e in events[:SHOWN]]
    if len(events) > SHOWN:
        lines.append(f"|   and {len(events) - SHOWN} more")
    return lines


def describe_event(entry: JournalEntry) -> str:
    """Describes an event of the journal in a few words."""
    event = entry.event
    if not isinstance(event, FeedbackGiven):
        return describe.count(len(event.examples), "example") if event.kind == "examples" else event.kind
    question = describe.one_line(to_messages(event.prompt)[-1].content)
    return f'{event.signal.kind.value} of "{question}"' + (f" by {event.user}" if event.user else "")


def event_json(entry: JournalEntry) -> dict[str, object]:
    """Returns an event of the journal as JSON."""
    event = entry.event
    value: dict[str, object] = {"event": entry.seq, "kind": event.kind, "at": event.at.isoformat()}
    if not isinstance(event, FeedbackGiven):
        return value | ({"examples": len(event.examples)} if event.kind == "examples" else {})
    return value | {
        "signal": event.signal.kind.value,
        "prompt": to_messages(event.prompt)[-1].content,
        "user": event.user,
        "answered": event.answered,
    }


def write_file(path: Path, text: str) -> None:
    """Writes a text file; raises `InvalidFile` if that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidFile(
            f"{path} cannot be written: {error.strerror}.", hint="Give another file."
        ) from None
