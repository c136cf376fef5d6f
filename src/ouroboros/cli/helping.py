"""`ouroboros help [VERB]`."""

from argparse import ArgumentParser, Namespace

from ouroboros.cli.output import Output
from ouroboros.domain.checks import suggest_nearest
from ouroboros.domain.errors import InvalidInput
from ouroboros.settings import Settings

NAME = "help"
HELP = "show all verbs, or one verb's options and examples"
EXAMPLES = """\
  ouroboros help
  ouroboros help train"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("topic", metavar="VERB", nargs="?", help="the verb")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    parsers: dict[str, ArgumentParser] = options.verb_parsers
    if options.topic is None:
        text = options.top_parser.format_help()
    elif options.topic in parsers:
        text = parsers[options.topic].format_help()
    else:
        raise InvalidInput(
            f"There is no verb {options.topic[:80]!r}.", hint=suggest_nearest(options.topic, parsers)
        )
    out.result({"help": text}, text.rstrip("\n"))
