"""`ouroboros pin NAME [FILE | PROMPT ANSWER]`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from ouroboros.cli.output import Output
from ouroboros.cli.store import open_engine, require_store
from ouroboros.data.examples import read_examples
from ouroboros.domain.data import TrainingExample, to_messages
from ouroboros.domain.errors import InvalidInput
from ouroboros.settings import Settings

if TYPE_CHECKING:
    from ouroboros.engine import AdapterLearningEngine

NAME = "pin"
HELP = "pin answers that no update may lose"
EXAMPLES = """\
  ouroboros pin tickets "Where is my parcel?" team-parcel
  ouroboros pin tickets never-forget.jsonl       lines as for `train`
  ouroboros pin tickets                          list the pins
  ouroboros pin tickets --remove "Where is my parcel?"

Every update must keep the pinned answers; they are never trained on."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the adapter")
    parser.add_argument("what", metavar="FILE|PROMPT ANSWER", nargs="*", help="what to pin")
    parser.add_argument("--remove", metavar="PROMPT", help="unpin the answer to this prompt")


async def run(options: Namespace, settings: Settings, out: Output) -> None:
    examples = examples_to_pin(options)
    require_store(settings)
    async with open_engine(settings) as engine:
        (await engine.get_adapter(options.name)).unwrap()
        wrong = 0
        if options.remove is not None:
            pins = (await engine.unpin_answers(options.name, [options.remove])).unwrap()
        elif examples:
            with out.waiting("Checking the answers"):
                pins = (await engine.pin_answers(options.name, examples)).unwrap()
                wrong = await count_wrong(engine, options.name, examples)
        else:
            pins = await read_pins(engine, options.name)
    lines = [f"{to_messages(pin.input)[-1].content} -> {pin.output}" for pin in pins]
    value = [{"input": pin.input, "output": pin.output} for pin in pins]
    out.result(value, *(lines or ["Nothing is pinned."]))
    if wrong:
        out.note(
            f"Note: {wrong} of these answers are not right yet; a pin protects an answer once it is."
        )


def examples_to_pin(options: Namespace) -> list[TrainingExample]:
    """Returns the examples that the arguments give: a file, or one prompt and its answer."""
    match options.what:
        case []:
            return []
        case [file] if options.remove is None:
            return read_examples(Path(file))
        case [prompt, answer] if options.remove is None:
            return [TrainingExample(prompt, answer)]
    raise InvalidInput("Give a file, or one prompt and its answer.", hint="See: ouroboros pin --help")


async def count_wrong(engine: AdapterLearningEngine, name: str, examples: list[TrainingExample]) -> int:
    """Counts the examples that the adapter answers differently."""
    evaluation = (await engine.evaluate_adapter(name, examples)).unwrap()
    return evaluation.rows - evaluation.correct


async def read_pins(engine: AdapterLearningEngine, name: str) -> list[TrainingExample]:
    """Returns the pinned examples of an adapter."""
    from ouroboros.learning.replay.probes import ProbeKind

    probes = (await engine.get_probes(name)).unwrap()
    return [probe.example for probe in probes if probe.kind is ProbeKind.PINNED]
