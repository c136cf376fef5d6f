"""W2: 100 examples, 3 epochs, rank 8 on q and v: our training job compared with Trainer and TRL.

Every arm gets the same loaded model, the same rows in memory, the same initial A (B is zero), batches,
order, rate, schedule, AdamW and clipping, and the loss on output tokens only. The clock runs from there
to the saved PEFT folder: tokenizing, building the trainer, training and saving are all inside. Each arm
runs in a process of its own; "warm" is the same job once more in the same process. Afterwards one
function reads every saved folder with PEFT, in float32, and gives the mean NLL of the training outputs.

`Trainer` and `SFTTrainer` run as their defaults and tuned (`peers.py` says how). Our arm does the same
work; in float32 too, for those who want to compare like with like. By default a training includes
anchors, passages that keep the adapter near its base, which no peer does: an arm of its own. The first
one's warm run is also compared with the machine's fastest matrix products (`mfu.py`).

`--beside N` measures something else: our job beside N busy programs (`beside.py`).
"""

import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from benchmarks.harness import Claim, Spread, Times, fresh, interleave, ratios
from benchmarks.w2.beside import measure_beside
from benchmarks.w2.job import SHAPES, TrainerRun, build_model, examples, plain_copy
from benchmarks.w2.judge import judge
from benchmarks.w2.ours import ours, start
from benchmarks.w2.peers import peer

Run: TypeAlias = dict[str, Any]
"""What an arm says: the times of each run of the job, cold and then warm, and its adapter's folder."""

_DEFAULT, _TUNED, _MFU = 5.0, 2.5, 0.6
ANCHORS = 0.25
"""For each row, as a training has them by default."""
_TARGETS = {
    "Trainer, defaults": _DEFAULT,
    "Trainer, bf16": None,
    "Trainer, tuned": _TUNED,
    "SFTTrainer, defaults": _DEFAULT,
    "SFTTrainer, tuned": _TUNED,
}


def add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=3, help="rounds of all arms")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--model", metavar="FOLDER", help="a model of your own; default: random weights")
    parser.add_argument("--shape", choices=sorted(SHAPES), default="24m", help="of the random weights")
    parser.add_argument("--beside", type=int, metavar="N", help="our job beside N busy programs instead")
    parser.add_argument("--rate", type=float, default=1e-3, help="the peak learning rate of every arm")


def run(options: Namespace) -> list[Claim]:
    with tempfile.TemporaryDirectory() as folder:
        job = _job(options, Path(folder))
        if options.beside is not None:
            return measure_beside(job, options.beside, 1 if options.quick else options.repeats)
        results = _rounds(job, 1 if options.quick else options.repeats)
        saved = {name: runs[-1]["folder"] for name, runs in results.items()}
        verdicts = fresh(judge, job=job.plain(), folders=saved)()
    return [
        *claim_speed(results),
        *claim_utilisation(results),
        *_sameness(verdicts),
        *_figures(results, verdicts),
    ]


def _job(options: Namespace, folder: Path) -> TrainerRun:
    model = folder / "model"
    if options.model:
        fresh(plain_copy, source=options.model, folder=str(model))()
    else:
        fresh(build_model, folder=str(model), small=options.quick, shape=options.shape)()
    rows = examples(8 if options.quick else 100)
    job = TrainerRun(
        str(model),
        rows,
        rate=options.rate,
        epochs=1 if options.quick else options.epochs,
        work=str(folder),
    )
    fresh(start, job=job.plain())()
    return job


def _rounds(job: TrainerRun, repeats: int) -> dict[str, list[Run]]:
    """All arms in turn; in the last round each runs its job once more, warm."""
    cold, last = interleave(_arms(job, 1), repeats - 1), interleave(_arms(job, 2), 1)
    return {name: [*cold[name], *last[name]] for name in last}


def _arms(job: TrainerRun, runs: int) -> dict[str, Callable[[], Run]]:
    shared: Run = {"job": job.plain(), "runs": runs}
    mine = {
        "ours": ("auto", 0.0),
        "ours, with anchors": ("auto", ANCHORS),
        "ours, float32": ("float32", 0.0),
    }
    arms = {name: fresh(ours, **shared, dtype=d, anchors=a) for name, (d, a) in mine.items()}
    return arms | {name: fresh(peer, **shared, name=name) for name in _TARGETS}


def _cold(runs: list[Run]) -> list[float]:
    return [Times(*run["times"][0]).wall for run in runs]


def _processor(runs: list[Run]) -> list[float]:
    return [Times(*run["times"][0]).processor for run in runs]


def _warm(runs: list[Run]) -> list[float]:
    return [Times(*runs[-1]["times"][1]).wall]


def claim_speed(results: dict[str, list[Run]]) -> list[Claim]:
    """The strongest peer is the headline; then each peer by itself, cold and warm."""
    mine = _cold(results["ours"])
    times = {name: ratios(_cold(results[name]), mine) for name in _TARGETS}
    strongest = min(times, key=lambda name: Spread.of(times[name]).median)
    claims = [
        Claim(
            f"times faster than the strongest peer ({strongest})",
            Spread.of(times[strongest]),
            at_least=_TUNED,
        )
    ]
    claims += [
        Claim(f"times faster than {n}", Spread.of(times[n]), at_least=t) for n, t in _TARGETS.items()
    ]
    for what, of in {
        "warm, times faster than": _warm,
        "processor time, times less than": _processor,
    }.items():
        own_time = of(results["ours"])
        claims += [Claim(f"{what} {n}", Spread.of(ratios(of(results[n]), own_time))) for n in _TARGETS]
    return claims


def claim_utilisation(results: dict[str, list[Run]]) -> list[Claim]:
    """The share of the machine's peak that the warm run's least operations make up."""
    last = results["ours"][-1]
    share = last["operations"] / Times(*last["times"][1]).wall / last["peak"]
    return [
        Claim("MFU, ours, warm", Spread.of([share]), at_least=_MFU),
        Claim("matrix products at their best", Spread.of([last["peak"] / 1e9]), unit=" GFLOP/s"),
    ]


def _sameness(verdicts: dict[str, Any]) -> list[Claim]:
    """The arms did the same work: as low a loss, and no factor of any layer stayed where it began."""
    mine = verdicts["ours"]["nll"]
    claims = [
        Claim(
            f"final loss, ours over {name}",
            Spread.of([mine / verdicts[name]["nll"]]),
            at_least=0.99,
            at_most=1.01,
        )
        for name in _TARGETS
    ]
    stuck = sum(v["unmoved"] for name, v in verdicts.items() if name != "start")
    return [*claims, Claim("factors without a gradient, all arms", Spread.of([stuck]), at_most=0)]


def _figures(results: dict[str, list[Run]], verdicts: dict[str, Any]) -> list[Claim]:
    losses = [Claim(f"loss, {name}", Spread.of([v["nll"]])) for name, v in verdicts.items()]
    cold = [Claim(f"job, {name}", Spread.of(_cold(runs)), unit=" s") for name, runs in results.items()]
    return cold + losses
