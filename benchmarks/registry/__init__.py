"""The registry: whether kills and races lose anything, and the latency of its verbs in a large store."""

import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path

from benchmarks.harness import Claim, Spread
from benchmarks.registry.kills import KillTally, survive
from benchmarks.registry.scale import PAGE, fill, measure, p95
from benchmarks.registry.writers import lost_commits

PARTS = ("kills", "writers", "scale")


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--only", choices=PARTS, help="one part of it")


def run(options: Namespace) -> list[Claim]:
    parts = {"kills": _kills, "writers": _writers, "scale": _scale}
    chosen = [options.only] if options.only else PARTS
    claims = []
    for part in chosen:
        with tempfile.TemporaryDirectory() as folder:
            claims += parts[part](Path(folder), options.quick)
    return claims


def _kills(folder: Path, quick: bool) -> list[Claim]:
    tally: KillTally = survive(folder, 20 if quick else 1000, seed=1)
    for point, count in tally.points.most_common():
        print(f"  {count:4d}  {point}")
    return [
        Claim("programs killed", _one(tally.kills)),
        Claim("different points they died at", _one(len(tally.points))),
        Claim("events and versions acknowledged", _one(tally.acknowledged)),
        Claim("acknowledged and lost", _one(len(tally.lost)), at_most=0),
        Claim("dangling rows", _one(len(tally.dangling)), at_most=0),
        Claim("stores that did not open", _one(len(tally.unopened)), at_most=0),
    ]


def _writers(folder: Path, quick: bool) -> list[Claim]:
    acknowledged, lost = lost_commits(folder, 8, 80 if quick else 10_000)
    return [
        Claim("commits of 8 processes to one adapter", _one(acknowledged)),
        Claim("of these lost", _one(lost), at_most=0),
    ]


def _scale(folder: Path, quick: bool) -> list[Claim]:
    adapters, versions = (20, 3) if quick else (1000, 10)
    fill(folder, adapters, versions)
    times = measure(folder, adapters, versions, 5 if quick else 200)
    rows = f"{adapters * versions:,} versions of {adapters:,} adapters"
    limits = {
        "open": 100.0,
        "page": 10.0,
        "list": None,
        "versions": 10.0,
        "head": 10.0,
        "rollback": 10.0,
    }
    words = {
        "open": "opening the store",
        "page": f"list of {PAGE} adapters",
        "list": "list of all adapters",
        "versions": "list of an adapter's versions",
        "head": "head",
        "rollback": "rollback",
    }
    return [
        Claim(f"{words[verb]}, p95, {rows}", _one(p95(times[verb])), at_most=limits[verb], unit=" ms")
        for verb in limits
    ]


def _one(value: float) -> Spread:
    return Spread.of([value])
