"""`ouroboros`: runs one verb, and turns every failure into one line and an exit code."""

import asyncio
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from ouroboros.cli import (
    backup,
    bench,
    chat,
    create,
    delete,
    demo,
    diff,
    evaluate,
    explain,
    exporting,
    feedback,
    find,
    forget,
    fsck,
    gc,
    generate,
    importing,
    jobs,
    lineage,
    listing,
    merge,
    migrate,
    model,
    pin,
    plan,
    rebuild,
    restore,
    rollback,
    show,
    train,
    versions,
)
from ouroboros.cli.output import Output
from ouroboros.cli.parser import Parser, build_parser, given_options
from ouroboros.domain.errors import STATUS, OuroborosError
from ouroboros.settings import NAMES, Settings

GROUPS = {
    "Create and train": (create, train, jobs, feedback, chat, merge, pin),
    "Generate and evaluate": (generate, find, evaluate),
    "Inspect": (listing, show, versions, explain, diff, lineage),
    "Undo": (rollback, rebuild, forget, delete),
    "The model": (model, plan),
    "Import, export": (importing, exporting),
    "The store": (fsck, gc, backup, restore, migrate),
    "Try it": (demo, bench),
}
"""Every verb, grouped by purpose."""

VERBS = tuple(chain.from_iterable(GROUPS.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of `domain.errors.STATUS`."""
    arguments = sys.argv[1:] if arguments is None else arguments
    out = Output("--json" in arguments)
    try:
        run_verb(arguments, out)
        sys.stdout.flush()
    except OuroborosError as error:
        return report_error(error, out, arguments)
    except KeyboardInterrupt:
        out.note("Stopped.")
        return STATUS["cancelled"].exit
    except BrokenPipeError:
        # The reader of our output closed the pipe: the interpreter's last flush must not fail on it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # a bug is reported in one line, without a traceback
        unexpected = OuroborosError(
            f"This is a bug in ouroboros: {type(error).__name__}: {error}",
            hint="Please report it with the output of --debug.",
        )
        return report_error(unexpected, out, arguments)
    return 0


def run_verb(arguments: Sequence[str], out: Output) -> None:
    parser = build_parser(GROUPS)
    parser.check_first(arguments)
    options, extras = parser.parse_known_args(arguments)
    if extras:
        subparser: Parser = getattr(options, "parser", parser)
        subparser.refuse_unknown(extras)
    if options.version:
        print(f"ouroboros {version('ouroboros-learning')}")
    elif options.verb is None:
        parser.print_help()
    else:
        asyncio.run(options.run(options, load_settings(options), out))


def load_settings(options: Namespace) -> Settings:
    file = getattr(options, "config", None)
    return Settings.load(given_options(options, *NAMES), file=Path(file) if file else None)


def report_error(error: OuroborosError, out: Output, arguments: Sequence[str]) -> int:
    if "--debug" in arguments:
        traceback.print_exc()
    out.error(error)
    return STATUS[error.code].exit
