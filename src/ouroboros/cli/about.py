"""`ouroboros version`."""

import platform
from argparse import ArgumentParser, Namespace
from importlib.metadata import version

from ouroboros.cli.output import Output
from ouroboros.settings import Settings

NAME = "version"
HELP = "print the version"
EXAMPLES = """\
  ouroboros version
  ouroboros version --json"""


def add_arguments(parser: ArgumentParser) -> None:
    """Has no options of its own."""


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    release = version("ouroboros-learning")
    out.result({"version": release, "python": platform.python_version()}, f"ouroboros {release}")
