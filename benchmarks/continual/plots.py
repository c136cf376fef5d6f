"""Pictures: each arm's table of scores, and average performance against rows kept."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.continual.metrics import Table


def heat_maps(tables: Mapping[str, Table], file: Path) -> None:
    """a[i][j] of every arm side by side: rows are stages, columns tasks."""
    figure = Figure(figsize=(2.3 * len(tables), 2.6))
    axes = figure.subplots(1, len(tables), squeeze=False)
    image = None
    for axis, (name, table) in zip(axes[0], tables.items(), strict=True):
        stages = len(table)
        square = [[*row[: i + 1], *[float("nan")] * (stages - i - 1)] for i, row in enumerate(table)]
        image = axis.imshow(square, vmin=0, vmax=1, cmap="viridis")
        axis.set_title(name, fontsize=9)
        axis.set_xlabel("task", fontsize=8)
        axis.tick_params(labelsize=7)
    axes[0][0].set_ylabel("after stage", fontsize=8)
    if image is not None:
        figure.colorbar(image, ax=axes[0].tolist(), shrink=0.8, label="answered exactly")
    figure.savefig(file, dpi=110, bbox_inches="tight")


def curves(lines: Mapping[str, Sequence[tuple[float, float]]], joint: float, file: Path) -> None:
    """Average performance against the share of the stream's rows that is kept."""
    figure = Figure(figsize=(5, 3.2))
    axis = figure.subplots()
    for name, points in lines.items():
        shares, scores = zip(*points, strict=True)
        axis.plot([100 * s for s in shares], [100 * s for s in scores], marker="o", label=name)
    axis.axhline(100 * joint, color="grey", linestyle="--", label="joint training")
    axis.set_xlabel("rows kept, % of the stream")
    axis.set_ylabel("average performance, %")
    axis.set_ylim(0, 100)
    axis.legend(fontsize=8)
    figure.savefig(file, dpi=110, bbox_inches="tight")
