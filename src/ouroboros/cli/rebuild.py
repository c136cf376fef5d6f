"""`ouroboros rebuild NAME@N`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.domain.results import Rebuild
from ouroboros.settings import Settings

NAME = "rebuild"
HELP = "rebuild a version from the journal and check that it is identical"
EXAMPLES = """\
  ouroboros rebuild tickets@5
  ouroboros rebuild tickets --line    the served version and its ancestors"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME@N", help="the version; without a number, the head")
    parser.add_argument("--line", action="store_true", help="rebuild its ancestors too")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        version = (await engine.get_version(options.name)).unwrap()
        versions = (await engine.get_lineage(version.ref)).unwrap() if options.line else [version]
        if options.line:
            versions = [v for v in versions if v.parents or (v.origin and v.origin.seed is not None)]
        rebuilds = []
        for version in versions:
            with out.waiting(f"Rebuilding {version.ref}"):
                rebuilds.append((await engine.rebuild_version(version.ref)).unwrap())
    out.result([rebuild_json(r) for r in rebuilds], *map(format_rebuild, rebuilds))


def rebuild_json(rebuilt: Rebuild) -> dict[str, Any]:
    """Returns the result of a rebuild as JSON."""
    return {
        "version": str(rebuilt.version.ref),
        "identical": rebuilt.identical,
        "stored": rebuilt.version.digest,
        "rebuilt": rebuilt.digest,
        "distance": rebuilt.distance,
        "differs": list(rebuilt.differs),
    }


def format_rebuild(rebuilt: Rebuild) -> str:
    """Formats whether the rebuilt version is identical, or by how much it differs."""
    if rebuilt.identical:
        return f"{rebuilt.version.ref}: identical to the last bit ({rebuilt.digest[:12]})."
    why = f"; changed since: {', '.join(rebuilt.differs)}" if rebuilt.differs else ""
    return f"{rebuilt.version.ref}: differs by {rebuilt.distance:.2g} of the layers' weight norm{why}."
