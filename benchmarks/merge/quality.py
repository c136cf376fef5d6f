"""Adapters of the bundled tasks, merged: what each task keeps of its accuracy, beside joint training."""

import json
import sys
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.harness import Claim, Spread

DATA = Path(__file__).resolve().parents[2] / "examples" / "data"


def run(quick: bool) -> list[Claim]:
    from ouroboros.build import open_sync_engine

    tasks = {folder.name: _Task(folder, 8 if quick else None) for folder in sorted(DATA.iterdir())}
    with open_sync_engine(store="memory:", model="starter") as engine:
        base = engine.base().unwrap()
        for name, task in tasks.items():
            _learn(engine, base, name, task.train, quick)
        _learn(engine, base, "joint", [e for t in tasks.values() for e in t.train], quick)
        own = {
            name: engine.evaluate_adapter(name, t.held_out).unwrap().accuracy
            for name, t in tasks.items()
        }
        scores = {"joint training": _score(engine, "joint", tasks, own)}
        for name in tasks:
            scores[f"{name} alone"] = _score(engine, name, tasks, own)
        for title, recipe in _recipes(len(tasks)).items():
            engine.merge_adapters(list(tasks), recipe, name=title).unwrap()
            scores[title] = _score(engine, title, tasks, own)
    shown = [Claim(f"accuracy of {n} on its own task", _percent(a), unit=" %") for n, a in own.items()]
    return shown + [
        Claim(f"kept of each task's accuracy, {title}", _percent(share), unit=" %")
        for title, share in scores.items()
    ]


class _Task:
    """A task's examples, at most `limit` of each kind."""

    def __init__(self, folder: Path, limit: int | None) -> None:
        from ouroboros.learning.formats import read_examples

        self.train = read_examples(folder / "train.jsonl")[:limit]
        self.held_out = read_examples(folder / "heldout.jsonl")[:limit]


def _recipes(tasks: int) -> dict[str, Any]:
    from ouroboros.domain.merging import MergeRecipe, MergeSpace, MergeStrategy

    arithmetic, ties, core = MergeStrategy.TASK_ARITHMETIC, MergeStrategy.TIES, MergeSpace.CORE
    return {
        "average": MergeRecipe(MergeStrategy.AVERAGE),
        **{f"sum x {s}": MergeRecipe(arithmetic, scale=s) for s in (0.5, 0.7, 1.0)},
        "ties 0.2 x 1": MergeRecipe(ties, density=0.2),
        "ties 0.5 x 1": MergeRecipe(ties, density=0.5),
        f"ties 0.2 x {tasks}": MergeRecipe(ties, density=0.2, scale=float(tasks)),
        "ties in core space 0.5 x 1": MergeRecipe(ties, density=0.5, space=core),
        "magnitude 0.2 x 1": MergeRecipe(MergeStrategy.MAGNITUDE, density=0.2),
        f"dare 0.5 x {0.7 * tasks:.1f}": MergeRecipe(MergeStrategy.DARE, density=0.5, scale=0.7 * tasks),
        f"dare_ties 0.5 x {0.7 * tasks:.1f}": MergeRecipe(
            MergeStrategy.DARE_TIES, density=0.5, scale=0.7 * tasks
        ),
    }


def _learn(engine: Any, base: Any, name: str, examples: list[Any], quick: bool) -> None:
    from ouroboros.domain.config import AdapterConfig, TrainingConfig

    print(f"  training {name} on {len(examples)} examples", file=sys.stderr, flush=True)
    engine.create_adapter(name, AdapterConfig.auto(base)).unwrap()
    epochs = {"epochs": 1} if quick else {}
    training = TrainingConfig.auto(len(examples), **epochs)
    engine.train_adapter(name, examples, training).unwrap()


def _score(engine: Any, name: str, tasks: dict[str, _Task], own: dict[str, float]) -> float:
    """Mean over tasks of the accuracy as a share of what the task's own adapter reaches."""
    found = {
        task: engine.evaluate_adapter(name, t.held_out).unwrap().accuracy for task, t in tasks.items()
    }
    print(
        f"  {name}: {json.dumps({t: round(a, 3) for t, a in found.items()})}",
        file=sys.stderr,
        flush=True,
    )
    return fmean(found[task] / max(own[task], 1e-9) for task in tasks)


def _percent(share: float) -> Spread:
    return Spread.of([100 * share])
