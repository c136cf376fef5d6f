"""Adapters of several tasks, merged: what each task keeps of its accuracy, beside the alternatives.

Each strategy is tried with several dials; what its parents are asked at every update (rows held out of
their trainings) chooses, and rows that none of them has seen are what is shown. Beside the merges: each
parent alone, routing to the adapter that knows, and one adapter trained on all tasks together.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.continual.streams import Cut, stream
from benchmarks.harness import Claim, Spread

DATA = Path(__file__).resolve().parents[2] / "examples" / "data"
CUT = Cut(stages=1, classes=5, train=20, test=12)
"""The fourth task: five classes of the folder under codes that mean nothing, 100 rows to train."""

DENSITIES = (0.2, 0.5, 0.8)
SHARES = (0.25, 0.5, 0.7, 1.0)
"""Scales of a merge that divides by the parents' number T, as shares of T."""


@dataclass(frozen=True)
class MergeTask:
    train: Sequence[Any]
    test: Sequence[Any]


@dataclass(frozen=True)
class MergeScore:
    """One line of the table: accuracy by task, and for merges whether the gate let it through."""

    title: str
    accuracy: dict[str, float]
    gate: str = ""
    mean: float = field(default=0.0)


def run(folder: str | None, quick: bool) -> list[Claim]:
    from ouroboros.build import open_sync_engine

    tasks = dict(_tasks(folder, 40 if quick else None))
    with open_sync_engine(store="memory:", model="starter") as engine:
        rows = list(_rows(engine, tasks, quick))
    own_accuracy = {name: row.accuracy[name] for name, row in zip(tasks, rows, strict=False)}
    rows = [replace(row, mean=average_share(row.accuracy, own_accuracy)) for row in rows]
    print("\n" + _table(rows, own_accuracy), file=sys.stderr, flush=True)
    return [
        Claim(f"kept of each task's accuracy, {row.title}", Spread.of([100 * row.mean]), unit=" %")
        for row in rows
    ]


def _tasks(folder: str | None, limit: int | None) -> Iterator[tuple[str, MergeTask]]:
    """At most `limit` rows of each kind."""
    from ouroboros.data.examples import read_examples

    for path in sorted(DATA.iterdir()):
        train, test = (read_examples(path / f"{part}.jsonl") for part in ("train", "heldout"))
        yield path.name, MergeTask(train[:limit], test[:limit])
    if folder:
        (stage,) = stream(folder, CUT, seed=0)
        yield Path(folder).name, MergeTask(stage.train[:limit], stage.test[:limit])


def _rows(engine: Any, tasks: dict[str, MergeTask], quick: bool) -> Iterator[MergeScore]:
    from ouroboros.domain.config import TrainingConfig

    plans = {n: TrainingConfig.auto(len(t.train)) for n, t in tasks.items()}
    if quick:
        plans = {name: replace(plan, epochs=4) for name, plan in plans.items()}
    for name, task in tasks.items():
        _learn(engine, name, task.train, plans[name])
    for name in tasks:
        yield print_row(MergeScore(f"{name} alone", _scores(engine, name, tasks)))
    for title, sure in (("routing, where sure (auto)", True), ("routing, to the nearest", False)):
        yield print_row(
            MergeScore(title, {n: measure_routing(engine, t, sure) for n, t in tasks.items()})
        )
    joint = [example for task in tasks.values() for example in task.train]
    longest = max(plans.values(), key=lambda plan: plan.epochs)
    _learn(engine, "joint", joint, longest)
    yield print_row(MergeScore("joint training", _scores(engine, "joint", tasks)))
    for title, recipes in _strategies(len(tasks)).items():
        yield print_row(_best(engine, title, recipes[-1:] if quick else recipes, tasks))


def _strategies(parents: int) -> dict[str, list[Any]]:
    """Recipes by strategy."""
    from ouroboros.domain.merging import MergeRecipe, MergeSpace, MergeStrategy

    ones = (1.0,) * parents
    plain = {
        "average": [MergeRecipe(MergeStrategy.AVERAGE)],
        "weighted by right answers": [MergeRecipe(MergeStrategy.WEIGHTED)],
    }
    for strategy in (MergeStrategy.TASK_ARITHMETIC, MergeStrategy.TSV):
        plain[f"{strategy.value}, plain sum"] = [MergeRecipe(strategy, ones)]
        plain[f"{strategy.value}, weights tuned"] = [MergeRecipe(strategy)]
    for strategy in (
        MergeStrategy.MAGNITUDE,
        MergeStrategy.TIES,
        MergeStrategy.DARE,
        MergeStrategy.DARE_TIES,
    ):
        for space in MergeSpace:
            plain[f"{strategy.value} in {space.value} space"] = [
                MergeRecipe(strategy, density=density, scale=share * parents, space=space)
                for density in DENSITIES
                for share in SHARES
            ]
    return plain


def _best(engine: Any, title: str, recipes: Sequence[Any], tasks: dict[str, MergeTask]) -> MergeScore:
    """The recipe that answers most of the parents' probes, of equals the first, on the test rows."""
    names, best, top = list(tasks), "", -1.0
    reports = {}
    for number, recipe in enumerate(recipes):
        name = f"{title} {number}"
        report = engine.merge_adapters(names, recipe, name=name, anyway=True).unwrap()
        reports[name] = report
        right = report.accuracy.get(name, 0.0)
        loser = best if right > top else name
        best, top = (name, right) if right > top else (best, top)
        if loser:
            engine.delete_adapter(loser).unwrap()
    row = MergeScore(
        title, _scores(engine, best, tasks), "passed" if reports[best].verdict.promoted else "refused"
    )
    recipe = recipes[int(best.rpartition(" ")[2])]
    engine.delete_adapter(best).unwrap()
    if len(recipes) == 1:
        weights = ", ".join(f"{w:.2g}" for w in reports[best].weights)
        return replace(row, title=f"{title} ({weights})") if "tuned" in title else row
    return replace(row, title=f"{title}, density {recipe.density:g}, scale {recipe.scale:g}")


def _learn(engine: Any, name: str, examples: Sequence[Any], training: Any) -> None:
    from ouroboros.domain.config import AdapterConfig

    print(f"  training {name} on {len(examples)} examples", file=sys.stderr, flush=True)
    engine.create_adapter(name, AdapterConfig.auto(engine.base().unwrap())).unwrap()
    engine.train_adapter(name, examples, training).unwrap()


def _scores(engine: Any, name: str, tasks: dict[str, MergeTask]) -> dict[str, float]:
    return {t: engine.evaluate_adapter(name, task.test).unwrap().accuracy for t, task in tasks.items()}


def measure_routing(engine: Any, task: MergeTask, sure: bool) -> float:
    """Of a task's rows, the share that the adapter found for them answers right.

    `auto` asks an adapter only where it is sure; elsewhere the base answers, which knows no task.
    """
    prompts_by_adapter: dict[str, list[Any]] = {}
    for example in task.test:
        (match,) = engine.find_adapters(example.input, 1).unwrap()
        if match.sure or not sure:
            prompts_by_adapter.setdefault(match.adapter.name, []).append(example)
    right = sum(
        engine.evaluate_adapter(n, rows).unwrap().correct for n, rows in prompts_by_adapter.items()
    )
    return right / len(task.test)


def average_share(accuracy: dict[str, float], own_accuracy: dict[str, float]) -> float:
    """Mean over tasks of the accuracy as a share of what the task's own adapter reaches."""
    return fmean(accuracy[task] / max(own_accuracy[task], 1e-9) for task in own_accuracy)


def print_row(row: MergeScore) -> MergeScore:
    shares = " ".join(f"{task} {share:.0%}" for task, share in row.accuracy.items())
    print(f"  {row.title}: {shares} {row.gate}", file=sys.stderr, flush=True)
    return row


def _table(rows: Sequence[MergeScore], own_accuracy: dict[str, float]) -> str:
    lines = [
        f"| accuracy | {' | '.join(own_accuracy)} | kept | gate |",
        "|---" * (len(own_accuracy) + 3) + "|",
    ]
    for row in rows:
        shares = " | ".join(f"{share:.0%}" for share in row.accuracy.values())
        lines.append(f"| {row.title} | {shares} | {row.mean:.0%} | {row.gate} |")
    return "\n".join(lines)
