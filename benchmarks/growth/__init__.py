"""Cost growth: time and memory against adapters, examples, context and rank, with measured exponents.

Each series runs in a process of its own on a model of random weights: the width of the 24M shape, two
layers (all ten with `--whole`), a context of 8,192. Time is that of the work alone, after a
warm-up; memory is the peak of resident memory less that before the work. An exponent is the slope of a
straight line through the logarithms: 1 is linear growth, 0 none. Fixed costs make it smaller, so the
exponent of the upper half of the points is shown too.

    adapters learning     1 to 64 adapters, one update each on a row of their own, requested at once
    adapters answering    1 to 64 adapters, an answer of 16 tokens each, requested at once
    adapters registered   10 to 10,000 adapters in one store of SQLite and files: making them
    examples learned      10 to 10,000 examples of some 25 tokens, one epoch in batches of 16
    context               one update on a row of 128 to 4,096 tokens
    rank                  one update of an adapter of rank 1 to 64 on every linear layer
"""

import math
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.growth import series
from benchmarks.harness import Claim, Spread, fresh
from benchmarks.w2.job import build_model

LINEAR = 1.1
"""An exponent that still counts as linear: measurements are not exact."""

_DOUBLED = [1, 2, 4, 8, 16, 32, 64]
POINTS = {
    "adapters learning": _DOUBLED,
    "adapters answering": _DOUBLED,
    "adapters registered": [10, 100, 1000, 10_000],
    "examples learned": [10, 30, 100, 300, 1000, 3000, 10_000],
    "context": [128, 256, 512, 1024, 2048, 4096],
    "rank": _DOUBLED,
}
_QUICK = {"adapters registered": [10, 30], "examples learned": [10, 20], "context": [128, 256]}

Points = list[tuple[float, float, float]]
"""Of one series: how many, seconds, bytes."""


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--only", choices=sorted(POINTS), action="append", help="a series; more by naming more"
    )
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all series")
    parser.add_argument("--whole", action="store_true", help="the 24M shape with all its layers")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw, if anywhere")
    parser.add_argument(
        "--processor", action="store_true", help="processor time, for a machine that is not idle"
    )


def run(options: Namespace) -> list[Claim]:
    series: dict[str, list[Points]] = {n: [] for n in options.only or POINTS}
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder, "model"))
        fresh(build_model, folder=model, small=not options.whole, context=8192)()
        for _ in range(1 if options.quick else options.repeats):
            for name, rounds in series.items():
                points = _QUICK.get(name, [1, 2]) if options.quick else POINTS[name]
                rounds.append(measure_series(name, model, points, options.processor))
    if options.plots:
        from benchmarks.growth.plots import draw

        options.plots.mkdir(parents=True, exist_ok=True)
        draw({n: rounds[-1] for n, rounds in series.items()}, exponent, options.plots / "growth.png")
    return [claim for name, rounds in series.items() for claim in _claims(name, rounds)]


def measure_series(name: str, model: str, points: Sequence[int], processor: bool) -> Points:
    print(f"  {name}: {', '.join(map(str, points))}", flush=True)
    work: dict[str, Any] = {"points": list(points), "processor": processor}
    function = getattr(series, name.replace(" ", "_"))
    if name != "adapters registered":
        work["model"] = model
    values = fresh(function, **work)()
    return [(n, s, b) for n, s, b in zip(points, values["seconds"], values["bytes"], strict=True)]


def _claims(name: str, rounds: Sequence[Points]) -> list[Claim]:
    claims = []
    for what, at in {"time": 1, "memory": 2}.items():
        lines = [[(p[0], max(p[at], series.FLOOR[at])) for p in points] for points in rounds]
        upper = [line[len(line) // 2 - (len(line) < 4) :] for line in lines]
        claims += [
            Claim(f"{name}: exponent of {what}", Spread.of(map(exponent, lines)), at_most=LINEAR),
            Claim(f"{name}: exponent of {what}, upper half", Spread.of(map(exponent, upper))),
        ]
    first, last = ([r[i] for r in rounds] for i in (0, -1))
    for points in (first, last):
        claims += [
            Claim(f"{name}: {points[0][0]:,}", Spread.of(p[1] for p in points), unit=" s"),
            Claim(f"{name}: {points[0][0]:,}", Spread.of(p[2] / 2**20 for p in points), unit=" MiB"),
        ]
    return claims


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The slope of the least-squares line through (log x, log y)."""
    xs, ys = ([math.log(p[i]) for p in points] for i in (0, 1))
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    across = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / across
