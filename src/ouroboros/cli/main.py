"""`ouroboros`: runs one verb, and turns every failure into one line and an exit code."""

import itertools
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import chain
from pathlib import Path

from ouroboros.cli import (
    about,
    backup,
    bench,
    chat,
    create,
    data,
    delete,
    demo,
    diff,
    doctor,
    evaluate,
    explain,
    exporting,
    feedback,
    find,
    forget,
    fsck,
    gc,
    generate,
    helping,
    importing,
    jobs,
    keys,
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
    serve,
    show,
    train,
    versions,
)
from ouroboros.cli.interrupts import INTERRUPTS
from ouroboros.cli.output import Output, open_standard_descriptors, write_note, write_result
from ouroboros.cli.parser import Parser, build_parser, given_options
from ouroboros.cli.store import open_engine, store_exists
from ouroboros.domain.errors import STATUS, InvalidInput, OuroborosError, explain_system_error
from ouroboros.settings import NAMES, Settings

GROUPS = {
    "Create and train": (create, data, train, jobs, feedback, chat, merge, pin),
    "Generate and evaluate": (generate, find, evaluate),
    "Serve over HTTP": (serve, keys),
    "Inspect": (listing, show, versions, explain, diff, lineage),
    "Undo": (rollback, rebuild, forget, delete),
    "The model": (model, plan),
    "Import, export": (importing, exporting),
    "The store": (fsck, gc, backup, restore, migrate),
    "Try it": (demo, bench),
    "This program": (helping, about, doctor),
}
"""Every verb, grouped by purpose."""

COMMITTING = {"create", "train", "jobs", "feedback", "merge", "import", "rollback"}
"""Verbs that move the head of the adapter that they name."""

VERBS = tuple(chain.from_iterable(GROUPS.values()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code of `domain.errors.STATUS`."""
    open_standard_descriptors()
    arguments = sys.argv[1:] if arguments is None else arguments
    out = Output("--json" in itertools.takewhile(lambda word: word != "--", arguments))
    try:
        with INTERRUPTS.install_handlers():
            run_verb(arguments, out)
    except OuroborosError as error:
        return report_error(error, out, arguments)
    except KeyboardInterrupt:
        out.note("Stopped.")
        return STATUS["cancelled"].exit
    except BrokenPipeError:
        return 0  # the reader has seen enough
    except Exception as error:
        return report_error(explain_exception(error), out, arguments)
    return 0


def explain_exception(error: Exception) -> OuroborosError:
    """Returns what to tell a user about an exception that nothing expected."""
    return explain_system_error(error) or OuroborosError(
        f"This is a bug in ouroboros: {type(error).__name__}: {error}",
        hint="Please report it with the output of --debug.",
    )


def run_verb(arguments: Sequence[str], out: Output) -> None:
    """Parses the arguments and runs the verb, or prints the help or the version."""
    parser = build_parser(GROUPS)
    parser.check_first(arguments)
    options, extras = parser.parse_known_args(arguments)
    if extras:
        subparser: Parser = getattr(options, "parser", parser)
        subparser.refuse_unknown(extras)
    refuse_bytes(options)
    if options.version:
        write_result(f"ouroboros {version('ouroboros-learning')}\n")
    elif options.verb is None:
        parser.print_help()
    else:
        settings, started = load_settings(options), datetime.now(UTC)
        try:
            INTERRUPTS.run(options.run(options, settings, out))
        except KeyboardInterrupt:
            report_commit(options, settings, started, out)
            raise


def report_commit(options: Namespace, settings: Settings, started: datetime, out: Output) -> None:
    """Says which version is served if a stopped verb had committed it already."""
    name = (getattr(options, "resume", None) or getattr(options, "name", None) or "").partition("@")[0]
    name = name.rpartition("#")[0] if options.verb == "jobs" else name
    if options.verb not in COMMITTING or not name or not store_exists(settings):
        return

    async def report() -> None:
        async with open_engine(settings) as engine:
            adapter = (await engine.get_adapter(name)).unwrap()
            head = (await engine.get_version(name)).unwrap()
            moves = (await engine.get_moves(name)).unwrap()
            dates = [adapter.created_at, head.created_at, *(move.at for move in moves)]
            if max(dates) >= started:
                out.note(f"The change was already committed: {head.ref} is served.")

    with suppress(OuroborosError):
        INTERRUPTS.run(report())


def refuse_bytes(options: Namespace) -> None:
    """Raises `InvalidInput` for an argument that is not text; a file's name may be any bytes."""
    for name, value in vars(options).items():
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not text.isascii() and re.search("[\ud800-\udfff]", text):
                raise InvalidInput(
                    f"The value of {name}, {text[:80]!r}, is not UTF-8.",
                    hint="Check the encoding of your terminal or script.",
                )


def load_settings(options: Namespace) -> Settings:
    """Loads the settings: from the options, the environment and the settings file, in this order."""
    file = getattr(options, "config", None)
    return Settings.load(given_options(options, *NAMES), file=Path(file) if file else None)


def report_error(error: OuroborosError, out: Output, arguments: Sequence[str]) -> int:
    """Prints an error, with its traceback under --debug, and returns the exit code."""
    if "--debug" in arguments:
        write_note(traceback.format_exc())
    out.error(error)
    return STATUS[error.code].exit
