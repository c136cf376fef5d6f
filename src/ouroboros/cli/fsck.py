"""`ouroboros fsck`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.errors import StoreError
from ouroboros.registry.fsck import StoreReport
from ouroboros.settings import Settings

NAME = "fsck"
HELP = "read the whole store, verify every digest, and say what is damaged or unused"
EXAMPLES = """\
  ouroboros fsck
  ouroboros fsck --repair    where the served version is damaged, serve a sound one"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--repair", action="store_true", help="put right what can be put right")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        found = (await engine.check_store()).unwrap()
        moved = (await engine.repair_store(found)).unwrap() if options.repair else []
    lines = [f"{d.ref}: {d.words}{' It is being served.' if d.served else ''}" for d in found.damages]
    lines += [f"{a.id} serves @{a.head} now." for a in moved]
    out.result(
        _json(found) | {"moved": {a.id.name: a.head for a in moved}},
        f"Read {found.versions} versions of {found.adapters} adapters: "
        + (f"{len(found.damages)} damaged." if found.damages else "all whole."),
        *lines,
        *_unused(found),
        *_forgetting(found),
    )
    if found.damages:
        raise StoreError(
            f"The store is damaged in {len(found.damages)} places.",
            hint="Restore a backup to get back what was lost.",
        )


def _json(found: StoreReport) -> dict[str, Any]:
    damages = [{"version": str(d.ref), "what": d.words, "served": d.served} for d in found.damages]
    return {
        "adapters": found.adapters,
        "versions": found.versions,
        "damages": damages,
        "unused": list(found.unused),
        "forgetting": {n.adapter.name: list(n.events) for n in found.forgetting},
    }


def _unused(found: StoreReport) -> list[str]:
    if not found.unused:
        return []
    return [f"{len(found.unused)} sets of weights belong to no version; ouroboros gc removes them."]


def _forgetting(found: StoreReport) -> list[str]:
    return [
        f"Forgetting {describe.numbers(n.events)} of {n.adapter} was interrupted;"
        f" go on with it: ouroboros forget {n.adapter}"
        for n in found.forgetting
    ]
