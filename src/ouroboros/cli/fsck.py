"""`ouroboros fsck`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING, Any

from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.errors import StoreError
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.registry.fsck import StoreReport

NAME = "fsck"
HELP = "verify every digest in the store and report what is damaged or unused"
EXAMPLES = """\
  ouroboros fsck
  ouroboros fsck --repair    if a served version is damaged, serve an intact one"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="repair what can be repaired")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        report = (await engine.check_store()).unwrap()
        moved = (await engine.repair_store(report)).unwrap() if options.repair else []
    lines = [
        f"{d.ref}: {d.words}{' This version is being served.' if d.served else ''}"
        for d in report.damages
    ]
    lines += [f"{a.id} now serves @{a.head}." for a in moved]
    out.result(
        report_json(report) | {"moved": {a.id.name: a.head for a in moved}},
        f"Checked {describe.count(report.versions, 'version')}"
        f" of {describe.count(report.adapters, 'adapter')}: "
        + (f"{len(report.damages)} damaged." if report.damages else "no damage."),
        *lines,
        *format_unused_weights(report),
        *format_interrupted_erasures(report),
    )
    if report.damages:
        raise StoreError(
            f"The store has {describe.count(len(report.damages), 'damaged version')}.",
            hint="Restore a backup to recover, or serve intact versions with --repair.",
        )


def report_json(report: StoreReport) -> dict[str, Any]:
    """Returns the state of a store as JSON."""
    damages = [{"version": str(d.ref), "what": d.words, "served": d.served} for d in report.damages]
    return {
        "adapters": report.adapters,
        "versions": report.versions,
        "damages": damages,
        "unused": list(report.unused),
        "forgetting": {n.adapter.name: list(n.events) for n in report.forgetting},
        "remakes": {r.adapter.name: r.reason for r in report.remakes},
    }


def format_unused_weights(report: StoreReport) -> list[str]:
    """Formats how many sets of weights belong to no version."""
    if not report.unused:
        return []
    return [f"{len(report.unused)} sets of weights belong to no version; `ouroboros gc` removes them."]


def format_interrupted_erasures(report: StoreReport) -> list[str]:
    """Formats each erasure that was interrupted, with the command that resumes it."""
    return [
        f"Erasing {describe.event_numbers(n.events)} of {n.adapter} was interrupted;"
        f" resume it: ouroboros forget {n.adapter}"
        for n in report.forgetting
    ] + [
        f"{r.adapter} is still to be rebuilt without erased data"
        f"{f' ({r.reason})' if r.reason else ''}: ouroboros forget {r.adapter}"
        for r in report.remakes
    ]
