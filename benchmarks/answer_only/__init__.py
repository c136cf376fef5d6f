"""Answer-only adapters compared with ordinary ones: what they learn, and the time they save.

Quality: an adapter of each kind is trained on each of the bundled tasks, from the same seed, with the
automatic settings, and judged on the held-out rows. `continual --answer-only` and
`feedback --only effects --answer-only` are the same for streams of tasks and for single judgements.

Speed: a training on long prompts, and many adapters that answer after one long system prompt: with
ordinary adapters, with answer-only ones, and with answer-only ones without the cache of prompts.
"""

import asyncio
from argparse import ArgumentParser, Namespace

from benchmarks.harness import Claim


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help="the base of all adapters")
    parser.add_argument("--only", choices=("quality", "speed"), help="one part of it")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=100, help="rows of the training")
    parser.add_argument("--prompt", type=int, default=200, help="words of a prompt")
    parser.add_argument("--adapters", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)


def run(options: Namespace) -> list[Claim]:
    from benchmarks.answer_only import quality, speed

    if options.quick:
        options.seeds, options.rounds = 1, 1
        options.rows, options.prompt, options.adapters = 8, 40, 2
    claims: list[Claim] = []
    if options.only in (None, "quality"):
        claims += asyncio.run(quality.claims(options.model, options.seeds, options.quick))
    if options.only in (None, "speed"):
        claims += speed.claims(
            options.model, options.rows, options.prompt, options.adapters, options.rounds
        )
    return claims
