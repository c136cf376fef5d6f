"""The picture: time above, memory below, a column for each series, both axes logarithmic."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.growth.series import FLOOR

_ROWS = (("seconds", 1, 1.0), ("MiB", 2, 2.0**20))


def draw(
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    exponent: Callable[[Sequence[tuple[float, float]]], float],
    file: Path,
) -> None:
    """Points as measured, and a line of slope 1 through the largest for the eye."""
    figure = Figure(figsize=(2.7 * len(series), 5))
    axes = figure.subplots(2, len(series), squeeze=False)
    for column, (name, points) in enumerate(series.items()):
        counts = [p[0] for p in points]
        for row, (unit, at, scale) in enumerate(_ROWS):
            axis = axes[row][column]
            values = [max(p[at] / scale, FLOOR[at] / scale) for p in points]
            axis.loglog(counts, values, marker="o", markersize=4, label="measured")
            linear = [values[-1] * n / counts[-1] for n in counts]
            axis.loglog(counts, linear, color="grey", linestyle="--", linewidth=1, label="linear")
            slope = exponent(list(zip(counts, values, strict=True)))
            axis.set_title(
                f"{name}\nexponent {slope:.2f}" if row == 0 else f"exponent {slope:.2f}", fontsize=9
            )
            axis.set_xticks(counts[:: max(1, len(counts) // 3)])
            axis.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
            axis.yaxis.set_minor_formatter(NullFormatter())
            axis.tick_params(labelsize=7)
            if column == 0:
                axis.set_ylabel(unit, fontsize=9)
                axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
