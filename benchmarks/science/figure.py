"""Pictures of the table: scores of all methods, and maps of all methods side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.science.cells import Cell
from benchmarks.science.table import Row
from ood_core.report.pictures import COLOURS, Stretch

PLOTS = {"fsd": "FSD", "unsteered_c2st": "C2ST, unsteered", "nearest_ratio": "nearest ratio"}
MARKS = "osD^v"
MAPS = 12
DOTS = 110


def draw_scores(table: Sequence[Row], path: Path) -> None:
    """Draw one column of plots per target set: methods down, scores across, real maps as lines."""
    names = list(dict.fromkeys(row.targets for row in table))
    numbers = sorted({row.n for row in table})
    methods = list(dict.fromkeys(row.method for row in table if row.method != "real maps"))
    size = (1.6 + 2.5 * len(names), len(PLOTS) * (0.8 + 0.22 * len(methods)))
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(PLOTS), len(names), squeeze=False, sharey=True, sharex="row")
    for plots, (key, title) in zip(grid, PLOTS.items(), strict=True):
        for axes, name in zip(plots, names, strict=True):
            _plot(axes, [row for row in table if row.targets == name], key, methods, numbers)
            axes.set_xlabel(title)
            axes.set_xscale("log" if key == "fsd" else "linear")
    for axes, name in zip(grid[0], names, strict=True):
        axes.set_title(name, parse_math=False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(numbers) + 1)
    figure.savefig(path, dpi=DOTS)


def _plot(
    axes: Axes, table: Sequence[Row], key: str, methods: Sequence[str], numbers: Sequence[int]
) -> None:
    real = [row.figures[key] for row in table if row.method == "real maps"]
    for interval in real[:1]:
        if interval is not None:
            axes.axvline(interval.mean, color="0.6", linewidth=1, label="real maps")
    for order, n in enumerate(numbers):
        found = {row.method: row.figures[key] for row in table if row.n == n}
        points = [(m, f) for m in methods if (f := found.get(m)) is not None]
        height = [methods.index(m) + 0.18 * (order - (len(numbers) - 1) / 2) for m, _ in points]
        axes.errorbar(
            [f.mean for _, f in points], height, xerr=[f.half or 0.0 for _, f in points],
            fmt=MARKS[order % len(MARKS)], markersize=4, linewidth=1, label=f"n = {n}",
        )  # fmt: skip
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.grid(axis="x", color="0.9")


def draw_maps(cells: Sequence[Cell], real: npt.NDArray[np.float32], out: Path, path: Path) -> None:
    """Draw the first maps of cells of one set, a row per method, under the real maps that score."""
    shown: Mapping[str, npt.NDArray[np.float32]] = {
        "real maps": real[np.linspace(0, len(real) - 1, MAPS).astype(int)],
        **{cell.method: cell.shown(out) for cell in cells},
    }
    stretch = Stretch.fit(real[:, 0])
    figure = Figure(figsize=(MAPS * 0.8 + 1.6, 0.8 * len(shown)), layout="constrained")
    for axes, (name, maps) in zip(figure.subplots(len(shown), 1), shown.items(), strict=True):
        framed = np.pad(maps[:MAPS, 0], ((0, 0), (0, 0), (0, 1)), constant_values=np.nan)
        strip = stretch(np.concatenate(list(framed), axis=1))
        axes.imshow(strip, COLOURS, vmin=0, vmax=1, interpolation="nearest")
        axes.text(-0.01, 0.5, name, ha="right", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=DOTS)
