"""`ouroboros rebuild NAME@N`."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ouroboros.build import open_engine
from ouroboros.cli.output import Output
from ouroboros.cli.store import require_store
from ouroboros.domain.results import Rebuild
from ouroboros.settings import Settings

NAME = "rebuild"
HELP = "make a version again from the journal, and see whether it is the same"
EXAMPLES = """\
  ouroboros rebuild tickets@5
  ouroboros rebuild tickets --line    the served version, and all that it came from"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME@N", help="the version; tickets is the served one")
    parser.add_argument("--line", action="store_true", help="and everything that it came from")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    require_store(settings)
    async with open_engine(settings) as engine:
        version_named = (await engine.get_version(options.name)).unwrap()
        versions = (
            (await engine.get_lineage(version_named.ref)).unwrap() if options.line else [version_named]
        )
        if options.line:
            versions = [v for v in versions if v.parents or (v.origin and v.origin.seed is not None)]
        rebuilds = []
        for version in versions:
            with out.waiting(f"Making {version.ref} again"):
                rebuilds.append((await engine.rebuild_version(version.ref)).unwrap())
    out.result([rebuild_json(r) for r in rebuilds], *map(format_rebuild, rebuilds))


def rebuild_json(rebuilt: Rebuild) -> dict[str, Any]:
    return {
        "version": str(rebuilt.version.ref),
        "identical": rebuilt.identical,
        "stored": rebuilt.version.digest,
        "rebuilt": rebuilt.digest,
        "distance": rebuilt.distance,
        "differs": list(rebuilt.differs),
    }


def format_rebuild(rebuilt: Rebuild) -> str:
    if rebuilt.identical:
        return f"{rebuilt.version.ref}: the same to the last bit ({rebuilt.digest[:12]})."
    why = f"; since then: {', '.join(rebuilt.differs)}" if rebuilt.differs else ""
    return f"{rebuilt.version.ref}: differs by {rebuilt.distance:.2g} of the layers' weight{why}."
