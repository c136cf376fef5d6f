"""Generates docs/cli.md from the verbs: `python docs/make_cli.py`. A test checks it."""

from argparse import ArgumentParser
from pathlib import Path
from types import ModuleType
from typing import Any

from ouroboros.cli.main import VERBS
from ouroboros.cli.parser import add_common

PAGE = Path(__file__).parent / "cli.md"
TOP = """\
# The command line

`ouroboros VERB ...`, or `python -m ouroboros VERB ...`. `python docs/make_cli.py` generates this page.

Results go to stdout, progress and notes to stderr. [Errors](errors.md) lists the exit codes.

Ctrl-C and SIGTERM stop a command in order, and it exits with 130. A training keeps a checkpoint, and the
last line names the command that goes on with it; a second Ctrl-C drops the training. If a command had
already committed its change, the last lines say which version is served.

[Settings](settings.md) shows how to set defaults in a file or in the environment.
"""
COMMON = "\n## Options of every verb\n\nThey can stand before or after the verb.\n"


class Arguments:
    """Has the methods of an argument parser, and collects the arguments as rows of a table."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []

    def add_argument(self, *names: str, **how: Any) -> None:
        value = how.get("metavar") or "|".join(how.get("choices") or ())
        shown = names[-1] if names[-1].startswith("-") else ""
        text = " ".join(filter(None, (shown, "" if how.get("action") == "store_true" else value)))
        self.rows.append((text, how.get("help", "")))

    def add_argument_group(self, *_: object) -> "Arguments":
        return self

    def table(self) -> str:
        rows = "".join(f"| `{_cell(name)}` | {_cell(text)} |\n" for name, text in self.rows)
        return f"\n| argument | meaning |\n|---|---|\n{rows}" if rows else ""


def page() -> str:
    """Returns the whole page."""
    common = Arguments()
    add_common(_as_parser(common))
    return TOP + "".join(map(_section, VERBS)) + COMMON + common.table()


def _section(verb: ModuleType) -> str:
    arguments = Arguments()
    verb.add_arguments(_as_parser(arguments))
    sentence = verb.HELP[0].upper() + verb.HELP[1:]
    return f"\n## {verb.NAME}\n\n{sentence}.\n{arguments.table()}\n```text\n{verb.EXAMPLES}\n```\n"


def _as_parser(arguments: Arguments) -> ArgumentParser:
    return arguments  # type: ignore[return-value]  # it has the methods that verbs call


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("%%", "%")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
