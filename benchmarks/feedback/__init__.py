"""One judgement: is it learned, and do other answers stay? (`w1` measures the time that it takes.)

Effects are measured on the starter model: an adapter is trained on each of the bundled tasks, and every
judgement is given to a fresh copy of it, through the engine, with the task's examples in its journal. A
correction names another label than the adapter's answer (the right one if the answer was wrong). Its
paraphrases are the prompt with a greeting, with thanks, in lower case, and after "Could you help me?".
The answers to all other held-out prompts of the task, and to prompts of other tasks, must stay. Prompts
of the task that are answered like the judged prompt, or with the corrected label, are reported
separately.

With `--stream FOLDER` (the HWU64 intents of github.com/jianguoz/Few-Shot-Intent-Detection: train and
test, each with seq.in and label) a simulated user teaches an adapter in four ways, and the curves are
drawn to a PNG (that needs matplotlib).
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.feedback import effects, stream
from benchmarks.harness import Claim


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help="the model of all arms")
    parser.add_argument("--only", choices=("effects", "stream"), help="one part of it")
    parser.add_argument("--cases", type=int, default=100, help="judgements of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the trainings before the judgements")
    parser.add_argument("--answer-only", action="store_true", help="effects on answer-only adapters")
    parser.add_argument("--stream", type=Path, metavar="FOLDER", help="the HWU64 intents")
    parser.add_argument("--events", type=int, default=120, help="judgements of the simulated user")
    parser.add_argument(
        "--plot", type=Path, default=Path("feedback.png"), help="where to draw the curves"
    )


def run(options: Namespace) -> list[Claim]:
    if options.quick:
        options.cases, options.events = 3, 8
    claims = []
    if options.only in (None, "effects"):
        claims += effects.claims(options.model, options.cases, options.answer_only, options.seed)
    if options.only in (None, "stream") and options.stream:
        claims += stream.claims(options.model, options.stream, options.events, options.plot)
    return claims
