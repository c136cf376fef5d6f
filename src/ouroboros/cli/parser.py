"""The command line's grammar: options common to all verbs may stand before or after the verb."""

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from textwrap import wrap
from types import ModuleType
from typing import Never

from ouroboros.domain.checks import nearest
from ouroboros.domain.errors import InvalidInput


class Parser(argparse.ArgumentParser):
    """Refuses in one line, as an error of ours, instead of printing a page of usage and exiting."""

    def error(self, message: str) -> Never:
        choice = re.match(r"argument VERB: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            verbs = [v.strip("' ") for v in choice[2].split(",")]
            raise InvalidInput(f"There is no verb {choice[1]!r}.", hint=nearest(choice[1], verbs))
        message = message.replace("the following arguments are required", "missing")
        raise InvalidInput(f"{message[0].upper()}{message[1:]}.", hint=f"See: {self.prog} --help")

    def check_first(self, arguments: Sequence[str]) -> None:
        """Refuse a mistyped option before the verb: argparse would take its value for the verb."""
        name = arguments[0].partition("=")[0] if arguments else ""
        if name.startswith("-") and name not in self._option_string_actions:
            self.refuse_unknown([name])

    def refuse_unknown(self, extras: Sequence[str]) -> Never:
        """Name the first argument that nothing takes, and the option it may have meant."""
        extra = extras[0].partition("=")[0]
        if not extra.startswith("-"):
            raise InvalidInput(
                f"The argument {extra!r} is one too many.",
                hint=f"Put quotes around text with blanks. See: {self.prog} --help",
            )
        options = [o for o in self._option_string_actions if o.startswith("--")]
        raise InvalidInput(f"There is no option {extra}.", hint=nearest(extra, options))


def build_parser(groups: Mapping[str, Sequence[ModuleType]]) -> Parser:
    """The grammar of the verbs, modules with NAME, HELP, EXAMPLES, `add_arguments` and `run`."""
    parser = Parser(
        prog="ouroboros",
        description=f"Create, train and ask small adapters on one frozen model.\n{list_verbs(groups)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="ouroboros VERB --help shows a verb's options and examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    add_common(parser)
    subparsers = parser.add_subparsers(metavar="VERB", dest="verb", parser_class=Parser)
    for verb in chain.from_iterable(groups.values()):
        sub = subparsers.add_parser(
            verb.NAME,
            description=verb.HELP[0].upper() + verb.HELP[1:] + ".",
            epilog=f"examples:\n{verb.EXAMPLES}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=verb.run, parser=sub)
        verb.add_arguments(sub)
        sub.usage = sub.format_usage().removeprefix("usage: ").strip().replace("%", "%%")
        add_common(sub)
    return parser


def list_verbs(groups: Mapping[str, Sequence[ModuleType]]) -> str:
    """Every verb with what it does, group by group."""
    lines = []
    for title, verbs in groups.items():
        lines += ["", f"{title}:"]
        for verb in verbs:
            lines += wrap(verb.HELP, 79, initial_indent=f"  {verb.NAME:10} ", subsequent_indent=" " * 13)
    return "\n".join(lines)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Suppressed defaults: an option given before the verb is not undone by its absence after it."""
    group = parser.add_argument_group("options of every verb")

    def add(*names: str, **how: object) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **how)  # type: ignore[arg-type]

    add("--store", metavar="URL", help="a folder, or memory: (default ./ouroboros-store)")
    add("--metadata", metavar="URL", help="keep metadata there: postgresql://..., qdrant://...")
    add("--blobs", metavar="URL", help="keep weights there: s3://..., gs://..., az://...")
    add("--blob-cache", type=int, metavar="MIB", help="copies of a cloud's weights kept here; 0: none")
    add("--model", metavar="PATH|ID", help="a model folder or hub id (default: the bundled starter)")
    add("--dtype", metavar="TYPE", help="auto, float32 or bfloat16")
    add("--device", metavar="DEVICE", help="auto, cpu or cuda")
    add("--quantize", metavar="BITS", help="none, int8 or nf4: keep the model in fewer bits")
    add("--embedding", metavar="MODEL", help="base or minilm: what tells adapters apart")
    add("--threads", type=int, metavar="N", help="processor threads")
    add(
        "--prompt-memory",
        type=int,
        metavar="MIB",
        help="what is kept of prompts for answer-only adapters",
    )
    add("--feedback-limit", type=int, metavar="N", help="judgements an hour learned from one user")
    add(
        "--replay-rows",
        type=int,
        metavar="N",
        help="rows of earlier learning that a training may replay",
    )
    add("--auto-rollback", type=float, metavar="P", help="go back when judged worse; P of false alarm")
    add(
        "--tolerance",
        type=float,
        metavar="X",
        help="share of known answers that a new version may lose",
    )
    add("--config", metavar="FILE", help="a settings file (default ouroboros.toml, if it is there)")
    add("--json", action="store_true", help="print the result as JSON")
    add("--debug", action="store_true", help="show where an error came from")


def given_options(options: argparse.Namespace, *names: str) -> dict[str, object]:
    """Those of the options that were given, by name."""
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}
