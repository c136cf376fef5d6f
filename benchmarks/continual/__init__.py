"""A stream of tasks for one adapter: how much of the earlier tasks it keeps after the last one.

    python -m benchmarks continual --stream FOLDER --prose FOLDER [--plots FOLDER]

FOLDER holds BANKING77 (train.csv, test.csv: text, category), HWU64 (train and test, each with seq.in
and label) or SuperNI's tasks (a folder each, of which test.json is read); or --stream names a JSONL
file of {"task": ..., "input": ..., "output": ...}. Intents are divided into stages and renamed to codes
without a meaning; at test time nothing says to which task a row belongs. --prose is a folder of plain
text files, to measure how far the adapter moves its base on unrelated text.

Arms: one stage after the other (sequential), EWC, O-LoRA, SLAO, replay alone, ours (the engine: replay,
probes and gate), and joint training on all rows as the upper bound; each takes the same optimizer steps
on the same rows, from the same factors. Scores are shares of held-out rows answered exactly.
"""

import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import Claim, Spread
from ouroboros.domain.performance import GateCounts

SHARE = 0.2
"""Of the stream's rows, at most this share is kept."""

CURVE = (0.0, 0.025, 0.05, 0.1, 0.2)


@dataclass(frozen=True)
class StreamRun:
    """One arm on one seed: its table of scores, and what it left behind."""

    table: list[list[float]]
    drift: float
    size: int
    seconds: float
    gated: GateCounts | None = None

    @property
    def ap(self) -> float:
        return fmean(self.table[-1])


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--model", default="starter", help="the base of all arms")
    parser.add_argument(
        "--stream", required=True, metavar="PATH", help="the rows: a folder or a JSONL file"
    )
    parser.add_argument("--prose", required=True, type=Path, metavar="FOLDER", help="plain text files")
    parser.add_argument("--stages", type=int, default=8)
    parser.add_argument("--classes", type=int, default=4, help="classes in each stage")
    parser.add_argument("--rows", type=int, default=20, help="training rows of each class")
    parser.add_argument("--test", type=int, default=12, help="test rows of each class")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", help="some of the arms, by name, with commas (default: all)")
    parser.add_argument("--answer-only", action="store_true", help="with answer-only adapters")
    parser.add_argument("--curve", action="store_true", help="also AP against the rows kept")
    parser.add_argument(
        "--poison", action="store_true", help="instead of the arms: bad teachers, and the gate's errors"
    )
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="where to draw, if anywhere")


def run(options: Namespace) -> list[Claim]:
    if options.quick:
        options.stages, options.classes, options.rows, options.test, options.seeds = 2, 2, 8, 4, 1
    if options.poison:
        from benchmarks.continual import poison

        return poison.run(options)
    # 1. On every seed, the accuracy of each task trained alone, then each arm on the whole stream.
    runs: dict[str, list[StreamRun]] = {}
    lines: dict[str, list[tuple[float, float]]] = {}
    alone: list[list[float]] = []
    base = 0.0
    for seed in range(options.seeds):
        from benchmarks.continual import arms
        from benchmarks.continual.ours import ours

        bench, stages, dials = _setting(options, seed)
        base = bench.perplexity(None)
        singles = zip(arms.alone(bench, stages, dials), stages, strict=True)
        alone.append([bench.accuracy(weights, stage.test) for weights, stage in singles])
        for name, arm in {**arms.PEERS, "ours": ours, "joint": arms.joint}.items():
            if not options.arms or name in options.arms.split(","):
                one = _measure(bench, stages, arm, dials, base)
                runs.setdefault(name, []).append(one)
                moved = f"BWT {100 * _bwt(one):.1f}, " if len(one.table) > 1 else ""
                print(
                    f"seed {seed}, {name}: AP {100 * one.ap:.1f}%, {moved}"
                    f"prose {100 * one.drift:+.0f}%, {one.seconds:.0f} s",
                    flush=True,
                )
        # 2. The curve of accuracy against the rows kept is slow, so it takes the first seed alone.
        if options.curve and seed == 0:
            rows = len(arms.rows_of(stages))
            for name, arm in {"replay only": arms.replay, "ours": ours}.items():
                lines[name] = [
                    (
                        share,
                        _measure(
                            bench, stages, arm, replace(dials, n_kept=round(share * rows)), base
                        ).ap,
                    )
                    for share in CURVE
                ]
                print(f"{name}, AP by share of rows kept: {lines[name]}", flush=True)
    if options.plots:
        _draw(options.plots, runs, lines)
    return _claims(runs, alone, lines)


def _setting(options: Namespace, seed: int) -> tuple[Any, Any, Any]:
    from benchmarks.continual.arms import Dials, rows_of
    from benchmarks.continual.model import Bench, prose
    from benchmarks.continual.streams import Cut, stream
    from ouroboros.backend.local.model.load import load_base
    from ouroboros.domain.config import ALL, ANSWER, AdapterConfig, TrainingConfig

    runtime = load_base(options.model)
    cut = Cut(options.stages, options.classes, options.rows, options.test)
    stages = stream(options.stream, cut, seed)
    training = TrainingConfig.auto(len(stages[0].train), seed=seed)
    acts_on = ANSWER if options.answer_only else ALL
    config = AdapterConfig.auto(runtime.base, max_steps=1_000_000, acts_on=acts_on)
    bench = Bench(runtime, config, training, prose(runtime, options.prose))
    return bench, stages, Dials(seed, n_kept=round(SHARE * len(rows_of(stages))))


def _measure(bench: Any, stages: Sequence[Any], arm: Any, dials: Any, base: float) -> StreamRun:
    """Run an arm and judge it after each stage on all tasks up to there; joint training on all, once."""
    table: list[list[float]] = []
    seconds, began = 0.0, time.perf_counter()
    weights: Any = None
    gated: GateCounts | None = None

    def learning() -> Iterator[Any]:
        nonlocal gated
        gated = yield from arm(bench, stages, dials)

    for number, weights in enumerate(learning()):
        seconds += time.perf_counter() - began
        seen = stages if arm.__name__ == "joint" else stages[: number + 1]
        table.append([bench.accuracy(weights, stage.test) for stage in seen])
        began = time.perf_counter()
    size = sum(4 * (low.a.numel() + low.b.numel()) for low in weights.values())
    return StreamRun(table, bench.perplexity(weights) / base - 1, size, seconds, gated)


def _claims(
    runs: dict[str, list[StreamRun]],
    alone: list[list[float]],
    lines: dict[str, list[tuple[float, float]]],
) -> list[Claim]:
    claims = _targets(runs)
    for name, arm_runs in runs.items():
        claims += _figures(name, arm_runs, alone)
    for name, points in lines.items():
        claims += [
            Claim(f"{name}: AP with {100 * share:g}% of rows kept", Spread.of([100 * ap]), unit="%")
            for share, ap in points
        ]
    return claims


def _targets(runs: dict[str, list[StreamRun]]) -> list[Claim]:
    claims = []
    if "ours" in runs:
        bwt = [100 * _bwt(r) for r in runs["ours"]]
        drift = [100 * r.drift for r in runs["ours"]]
        claims.append(Claim("ours: BWT, points", Spread.of(bwt), at_least=-1.0))
        claims.append(Claim("ours: perplexity of plain text", Spread.of(drift), at_most=1.0, unit="%"))
    if {"ours", "joint"} <= runs.keys():
        pairs = zip(runs["ours"], runs["joint"], strict=True)
        claims.append(
            Claim("ours: AP over joint's", Spread.of(a.ap / b.ap for a, b in pairs), at_least=0.97)
        )
    if "sequential" in runs:
        lost = [-100 * _bwt(r) for r in runs["sequential"]]
        claims.append(
            Claim("sequential: points lost, or the stream is too easy", Spread.of(lost), at_least=30)
        )
    return claims


def _figures(name: str, runs: list[StreamRun], alone: list[list[float]]) -> Iterator[Claim]:
    from benchmarks.continual.metrics import summarise

    def claim(what: str, values: Sequence[float], unit: str = "") -> Claim:
        return Claim(f"{name}: {what}", Spread.of(values), unit=unit)

    yield claim("AP", [100 * r.ap for r in runs], "%")
    if len(runs[0].table) == len(alone[0]):
        sums = [summarise(r.table, a) for r, a in zip(runs, alone, strict=True)]
        yield claim("score right after a stage", [100 * s.diagonal for s in sums], "%")
        yield claim("BWT, points", [100 * s.bwt for s in sums])
        yield claim("forgetting, points", [100 * s.forgetting for s in sums])
        yield claim("FWT, points", [100 * s.fwt for s in sums])
    yield claim("perplexity of plain text", [100 * r.drift for r in runs], "%")
    yield claim("adapter, MiB", [r.size / 2**20 for r in runs])
    yield claim("training time", [r.seconds for r in runs], " s")
    if gates := [r.gated for r in runs if r.gated]:
        yield claim(
            "updates that passed as they were", [g.passed for g in gates], f" of {gates[0].judged}"
        )
        yield claim("saved by walking back", [g.walked for g in gates])
        yield claim("saved by training again", [g.again for g in gates])
        yield claim("refused", [g.refused for g in gates])


def _bwt(run: StreamRun) -> float:
    at_own_stage, last = [row[-1] for row in run.table], run.table[-1]
    return fmean(after - before for after, before in zip(last[:-1], at_own_stage[:-1], strict=True))


def _draw(
    folder: Path, runs: dict[str, list[StreamRun]], lines: dict[str, list[tuple[float, float]]]
) -> None:
    from benchmarks.continual.plots import curves, heat_maps

    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: runs[0].table for name, runs in runs.items() if len(runs[0].table) > 1}
    if tables:
        heat_maps(tables, folder / "continual-heat.png")
    if lines and "joint" in runs:
        curves(lines, runs["joint"][0].ap, folder / "continual-curve.png")
