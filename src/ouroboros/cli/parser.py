"""The argument parser. Options that all verbs share can stand before or after the verb."""

import argparse
import re
from collections.abc import Mapping, Sequence
from itertools import chain
from textwrap import wrap
from typing import Never, Protocol

from ouroboros.cli.output import Output, write_result
from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.errors import InvalidInput
from ouroboros.settings import Settings

SIMILAR = {
    "ask predict infer run answer": "generate",
    "ls adapters ps": "list",
    "log logs history": "versions",
    "info status describe": "show",
    "why": "explain",
    "new init add": "create",
    "fit finetune fine-tune sft": "train",
    "eval test score": "evaluate",
    "learn correct fix rate": "feedback",
    "talk repl": "chat",
    "undo revert reset": "rollback",
    "erase": "forget",
    "rm remove": "delete",
    "clean prune": "gc",
    "check repair verify": "fsck",
    "models pull download": "model",
    "load": "import",
    "save": "export",
    "config env": "doctor",
    "validate prepare dataset inspect": "data",
    "usage man": "help",
}
"""Verbs of other programs, and ours that does the same."""


def suggest_verb(word: str, verbs: Sequence[str]) -> str:
    """Returns a hint: our verb for a habit from another program, or else the nearest one."""
    for words, verb in SIMILAR.items():
        if word.lower() in words.split() and verb in verbs:
            return f"Did you mean {verb}?"
    return suggest_nearest(word, verbs)


class Verb(Protocol):
    """What a module has that is a verb of the command line.

    NAME      the word that calls it.
    HELP      what it does, in one sentence that begins in lower case.
    EXAMPLES  lines that the verb's help ends with.
    """

    NAME: str
    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Adds the verb's arguments and options to its parser."""
        ...

    async def run(self, options: argparse.Namespace, settings: Settings, out: Output) -> None:
        """Runs the verb and prints its result. Raises an `OuroborosError` for any failure."""
        ...


class Parser(argparse.ArgumentParser):
    """Raises `InvalidInput` with one line instead of printing the usage and exiting."""

    def error(self, message: str) -> Never:
        """Raises `InvalidInput` in our words for a message of argparse."""
        choice = re.match(r"argument VERB: invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if choice:
            verbs = [v.strip("' ") for v in choice[2].split(",")]
            raise InvalidInput(
                f"There is no verb {choice[1][:80]!r}.", hint=suggest_verb(choice[1], verbs)
            )
        message = re.sub(r"'(.{80})[^']*'", r"'\1...'", message)  # no value needs more to be recognised
        message = message.replace("the following arguments are required", "missing")
        raise InvalidInput(f"{message[0].upper()}{message[1:]}.", hint=f"See: {self.prog} --help")

    def _print_message(self, message: str, file: object = None) -> None:
        """Prints the help through the one function that notices a closed or full stdout."""
        write_result(message)

    def check_first(self, arguments: Sequence[str]) -> None:
        """Refuses a mistyped option before the verb, whose value argparse would take for the verb."""
        name = arguments[0].partition("=")[0] if arguments else ""
        if name.startswith("-") and name not in self._option_string_actions:
            self.refuse_unknown([name])

    def refuse_unknown(self, extras: Sequence[str]) -> Never:
        """Raises an error that names the first unknown argument and the nearest option."""
        extra = extras[0].partition("=")[0]
        # An option that exists is an argument here: it stands after "--".
        if not extra.startswith("-") or extra == "--" or extra in self._option_string_actions:
            raise InvalidInput(
                f"Unexpected argument {extra!r}.",
                hint=f"Put quotes around text with spaces. See: {self.prog} --help",
            )
        options = [o for o in self._option_string_actions if o.startswith("--")]
        raise InvalidInput(f"There is no option {extra}.", hint=suggest_nearest(extra, options))


def build_parser(groups: Mapping[str, Sequence[Verb]]) -> Parser:
    """Builds the parser of all verbs."""
    parser = Parser(
        prog="ouroboros",
        description=f"Create, train and serve small adapters on one frozen model.\n{list_verbs(groups)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="ouroboros VERB --help shows a verb's options and examples.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    add_common(parser)
    subparsers = parser.add_subparsers(metavar="VERB", dest="verb", parser_class=Parser)
    parser.set_defaults(top_parser=parser, verb_parsers=subparsers.choices)
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


def list_verbs(groups: Mapping[str, Sequence[Verb]]) -> str:
    """Formats every verb with its help, group by group."""
    lines = []
    for title, verbs in groups.items():
        lines += ["", f"{title}:"]
        for verb in verbs:
            lines += wrap(verb.HELP, 79, initial_indent=f"  {verb.NAME:10} ", subsequent_indent=" " * 13)
    return "\n".join(lines)


def add_common(parser: argparse.ArgumentParser) -> None:
    """Adds the shared options. Suppressed defaults keep an option that stands before the verb."""
    group = parser.add_argument_group("options of every verb")

    def add(*names: str, **how: object) -> None:
        group.add_argument(*names, default=argparse.SUPPRESS, **how)  # type: ignore[arg-type]

    add("--store", metavar="URL", help="a folder, or memory: (default ./ouroboros-store)")
    add("--metadata", metavar="URL", help="store metadata there: postgresql://..., qdrant://...")
    add("--blobs", metavar="URL", help="store weights there: s3://..., gs://..., az://...")
    add(
        "--blob-cache",
        type=int,
        metavar="MIB",
        help="local cache of weights from a cloud; 0 disables it",
    )
    add(
        "--model",
        metavar="MODEL",
        help="starter, smollm2, a GGUF file, a folder or a hub id (default: starter)",
    )
    add("--dtype", metavar="TYPE", help="auto, float32 or bfloat16")
    add("--device", metavar="DEVICE", help="auto, cpu, cuda, or one of several: cuda:1")
    add("--quantize", metavar="BITS", help="none, int8 or nf4: load the model in fewer bits")
    add(
        "--embedding",
        metavar="MODEL",
        help="base or minilm: the embeddings that match prompts to adapters",
    )
    add("--threads", type=int, metavar="N", help="processor threads")
    add(
        "--prompt-memory",
        type=int,
        metavar="MIB",
        help="cache of prompts for answer-only adapters",
    )
    add("--feedback-limit", type=int, metavar="N", help="judgements learned from one user per hour")
    add(
        "--replay-rows",
        type=int,
        metavar="N",
        help="rows kept for replay by later trainings",
    )
    add(
        "--auto-rollback",
        type=float,
        metavar="P",
        help="roll back when judgements get worse; P is the false-alarm rate",
    )
    add(
        "--tolerance",
        type=float,
        metavar="X",
        help="share of known answers that a new version may lose",
    )
    add("--config", metavar="FILE", help="a settings file (default ouroboros.toml, if it exists)")
    add("--json", action="store_true", help="print the result as JSON")
    add("--debug", action="store_true", help="show where an error came from")


def given_options(options: argparse.Namespace, *names: str) -> dict[str, object]:
    """Returns the options that were given, by name."""
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}
