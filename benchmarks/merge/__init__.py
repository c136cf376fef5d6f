"""Merging adapters: speed and error beside PEFT's, and what merged tasks keep of their accuracy."""

from argparse import ArgumentParser, Namespace

from benchmarks.harness import Claim
from benchmarks.merge import algebra, quality


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--only", choices=("algebra", "quality"), help="one half of it")


def run(options: Namespace) -> list[Claim]:
    claims: list[Claim] = []
    if options.only != "quality":
        claims += algebra.run(options.quick)
    if options.only != "algebra":
        claims += quality.run(options.quick)
    return claims
