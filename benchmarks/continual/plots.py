"""Pictures: each arm's table of scores, and average performance against rows kept."""

from collections.abc import Mapping, Sequence
from math import nan
from pathlib import Path
from statistics import fmean

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.continual.metrics import Table

ACROSS = 3
"""Tables side by side."""

_GREY = "#5a5a5a"


def heat_maps(tables: Mapping[str, Table], file: Path) -> None:
    """a[i][j] of every arm: rows are stages, columns tasks, in percent."""
    down = -(-len(tables) // ACROSS)
    figure = Figure(figsize=(3.3 * min(len(tables), ACROSS), 3.2 * down), layout="constrained")
    axes = figure.subplots(down, min(len(tables), ACROSS), squeeze=False).ravel()
    for axis in axes[len(tables) :]:
        axis.set_axis_off()
    for place, (axis, (name, table)) in enumerate(zip(axes, tables.items(), strict=False)):
        _heat_map(axis, table)
        axis.set_title(f"{name}: {100 * fmean(table[-1]):.0f}% in the end", fontsize=10, loc="left")
        if place % ACROSS == 0:
            axis.set_ylabel("after stage", fontsize=9, color=_GREY)
        if place >= len(tables) - ACROSS:
            axis.set_xlabel("task", fontsize=9, color=_GREY)
    figure.savefig(file, dpi=130)


def _heat_map(axis: Axes, table: Table) -> None:
    stages = len(table)
    square = [[*row[: i + 1], *[nan] * (stages - i - 1)] for i, row in enumerate(table)]
    axis.imshow(square, vmin=0, vmax=1, cmap=colormaps["YlGnBu"])
    for i, row in enumerate(table):
        for j, score in enumerate(row[: i + 1]):
            color = "white" if score > 0.5 else "#333333"
            axis.text(j, i, f"{100 * score:.0f}", ha="center", va="center", fontsize=7, color=color)
    numbers = range(stages)
    axis.set_xticks(numbers, [str(n + 1) for n in numbers])
    axis.set_yticks(numbers, [str(n + 1) for n in numbers])
    axis.tick_params(labelsize=7, length=0, colors=_GREY)
    axis.spines[:].set_visible(False)


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], joint: float, file: Path) -> None:
    """Average performance against the share of the stream's rows that is kept."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axis = figure.subplots()
    for name, points in lines.items():
        shares, scores = zip(*points, strict=True)
        axis.plot([100 * s for s in shares], [100 * s for s in scores], marker="o", label=name)
    axis.axhline(100 * joint, color="grey", linestyle="--", label="joint training")
    axis.set_xlabel("rows kept, % of the stream")
    axis.set_ylabel("average performance, %")
    axis.set_ylim(0, 100)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=130)
