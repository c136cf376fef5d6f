"""`ouroboros generate NAME PROMPT`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ouroboros.cli import describe
from ouroboros.cli.find import format_threshold
from ouroboros.cli.output import Output, read_stdin
from ouroboros.cli.parser import given_options
from ouroboros.cli.store import open_engine, require_store
from ouroboros.cli.streaming import LONGEST, print_stream
from ouroboros.data.conversations import parse_prompt
from ouroboros.domain.data import Message, Prompt, to_messages
from ouroboros.domain.errors import InvalidFile, InvalidInput
from ouroboros.domain.generation import Generation, GenerationConfig
from ouroboros.domain.names import AUTO_ADAPTER
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "generate"
HELP = "answer a prompt with an adapter that you name, or with the one that matches the prompt"
EXAMPLES = """\
  ouroboros generate tickets "Where is my parcel?"
  ouroboros generate tickets@1 "Where is my parcel?"    version 1 is the base model
  ouroboros generate poems "About autumn" --temperature 0.8 --seed 1 --max-tokens 200
  ouroboros generate auto "Where is my parcel?"         the best match, or the base model
  ouroboros generate tickets - < question.txt
  ouroboros generate tickets --messages conversation.json"""


_MESSAGES_HINT = 'Write a list like [{"role": "user", "content": "Hello"}].'


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter, one version (tickets@2), or auto")
    parser.add_argument("prompt", metavar="PROMPT", nargs="?", help="the prompt; - reads it from stdin")
    parser.add_argument(
        "--system",
        metavar="TEXT",
        help="instructions before the prompt, instead of those of the training; empty for none",
    )
    parser.add_argument(
        "--messages",
        metavar="FILE",
        help="a conversation instead of a prompt: a JSON list of messages; - reads it from stdin",
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
    prompt = read_prompt_arguments(options)
    require_store(settings)
    async with open_engine(settings) as engine:
        await note_other_instructions(engine, options.name, prompt, out)
        if out.as_json:
            answer = (await engine.generate_with_adapter(prompt, options.name, config)).unwrap()
            out.result(describe.generation_json(answer))
        else:
            answer = await print_stream(engine, prompt, options.name, config, out)
    if answer is not None and options.name == AUTO_ADAPTER:
        out.note(f"({describe_route(answer)})")
    if answer is not None and answer.finish == "length":
        out.note("(stopped at the token limit; raise it with --max-tokens)")


def read_prompt_arguments(options: Namespace) -> Prompt:
    """Returns the prompt of the arguments: plain text, or a conversation."""
    if (options.prompt is None) == (options.messages is None):
        raise InvalidInput(
            "The command needs either a prompt or --messages.",
            hint='For example: ouroboros generate tickets "Where is my parcel?"',
        )
    if options.messages is not None:
        if options.system is not None:
            raise InvalidInput(
                "--messages and --system exclude each other.",
                hint="Write the instructions as the first message, of the role system.",
            )
        return read_messages(options.messages)
    question = read_stdin() if options.prompt == "-" else options.prompt
    if options.system is None:
        return question
    system = [Message("system", options.system)] if options.system else []
    return (*system, Message("user", question))


def read_messages(file: str) -> Prompt:
    """Reads a conversation from a JSON file, or from standard input for "-"."""
    where = "Standard input" if file == "-" else file
    try:
        text = read_stdin() if file == "-" else Path(file).read_text(encoding="utf-8")
        messages = json.loads(text)
    except OSError as error:
        raise InvalidFile(f"{file} cannot be read: {error.strerror}.", hint=_MESSAGES_HINT) from error
    except (ValueError, RecursionError):
        raise InvalidFile(f"{where} is not JSON in UTF-8.", hint=_MESSAGES_HINT) from None
    if not isinstance(messages, list) or not messages:
        raise InvalidFile(f"{where} is not a list of messages.", hint=_MESSAGES_HINT)
    return to_messages(parse_prompt(messages))


async def note_other_instructions(
    engine: AdapterLearningEngine, name: str, prompt: Prompt, out: Output
) -> None:
    """Tells the user that the adapter was trained with other instructions than the prompt has."""
    if isinstance(prompt, str) or name == AUTO_ADAPTER:
        return
    trained = (await engine.get_instructions(name)).unwrap()
    first = prompt[0]
    instructions = first.content if first.role == "system" else ""
    if trained and instructions != trained:
        out.note(f'(the adapter was trained with other instructions: "{describe.one_line(trained)}")')


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
