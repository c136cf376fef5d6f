"""Merging adapters: speed and error compared with PEFT's, and the accuracy that merged tasks keep."""

from argparse import ArgumentParser, Namespace

from benchmarks.harness import Claim
from benchmarks.merge import algebra, quality


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--only", choices=("algebra", "quality"), help="one half of it")
    parser.add_argument(
        "--tasks",
        metavar="FOLDER",
        help="a fourth task beside the bundled three: BANKING77, HWU64 or SuperNI",
    )


def run(options: Namespace) -> list[Claim]:
    claims: list[Claim] = []
    if options.only != "quality":
        claims += algebra.run(options.quick)
    if options.only != "algebra":
        claims += quality.run(options.tasks, options.quick)
    return claims
