"""`ouroboros generate NAME PROMPT`."""

from argparse import ArgumentParser, Namespace

from ouroboros.build import open_engine
from ouroboros.cli import describe
from ouroboros.cli.find import format_threshold
from ouroboros.cli.output import Output, read_stdin
from ouroboros.cli.parser import given_options
from ouroboros.cli.store import require_store
from ouroboros.cli.streaming import LONGEST, print_stream
from ouroboros.domain.data import Message, Prompt
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AUTO_ADAPTER
from ouroboros.settings import Settings

NAME = "generate"
HELP = "answer a prompt with an adapter that you name, or with the one that matches the prompt"
EXAMPLES = """\
  ouroboros generate tickets "Where is my parcel?"
  ouroboros generate tickets@1 "Where is my parcel?"    version 1 is the base model
  ouroboros generate poems "About autumn" --temperature 0.8 --seed 1 --max-tokens 200
  ouroboros generate auto "Where is my parcel?"         the best match, or the base model
  ouroboros generate tickets - < question.txt"""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter, one version (tickets@2), or auto")
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; - reads it from stdin")
    parser.add_argument(
        "--system", metavar="TEXT", help="instructions, as a system turn before the prompt"
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        metavar="N",
        help="longest answer, in tokens (default: to its end or the model's context)",
    )
    parser.add_argument(
        "--temperature", type=float, metavar="X", help="0, the default, takes the likeliest token"
    )
    parser.add_argument(
        "--top-p",
        type=float,
        metavar="X",
        help="sample from the likeliest tokens of this total probability",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="make sampling repeatable")
    parser.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="stop before this text; can be given several times",
    )


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    changes = given_options(options, "max_tokens", "temperature", "top_p", "seed")
    changes = {"max_tokens": LONGEST} | changes
    config = GenerationConfig(stop=tuple(options.stop or ()), **changes)  # type: ignore[arg-type]
    question = read_stdin() if options.prompt == "-" else options.prompt
    prompt: Prompt = question
    if options.system is not None:
        prompt = (Message("system", options.system), Message("user", question))
    require_store(settings)
    async with open_engine(settings) as engine:
        if out.as_json:
            answer = (await engine.generate_with_adapter(prompt, options.name, config)).unwrap()
            out.result(describe.generation_json(answer))
        else:
            answer = await print_stream(engine, prompt, options.name, config, out)
    if answer is not None and options.name == AUTO_ADAPTER:
        out.note(f"({describe_route(answer)})")
    if answer is not None and answer.finish == "length":
        out.note("(stopped at the token limit; raise it with --max-tokens)")


def describe_route(answer: Generation) -> str:
    """Returns which adapter answered, and why."""
    match = answer.route
    if match is None:
        return "the base model answered: there are no adapters"
    figures = f"similarity {match.similarity:.2f}, threshold {format_threshold(match)}"
    if answer.version:
        return f"{answer.version} answered: {figures}"
    return (
        f"the base model answered: the nearest adapter, {match.adapter}, is not close enough ({figures})"
    )
