"""The table: means over seeds with their intervals, as Markdown and as CSV."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from scipy.stats import t as student

from benchmarks.science.cells import Cell
from ood_core.evaluation.features import FAMILIES

CONFIDENCE = 0.95
Stored = Mapping[str, Any]
Value = Callable[[Stored], float | None]


@final
@dataclass(frozen=True, slots=True)
class Column:
    """A figure of a cell; `real` is what real maps score, where there is such a thing."""

    key: str
    title: str
    value: Value
    real: Value | None = None


def _score(name: str, title: str) -> Column:
    def of(what: str) -> Value:
        return lambda cell: cell["scores"][name][what]

    return Column(name, title, of("value"), of("real"))


def _family(name: str) -> Column:
    def of(what: str) -> Value:
        return lambda cell: cell["families"].get(name, {}).get(what)

    return Column(name, name, of("value"), of("real"))


def _unsteered(what: str) -> Value:
    return lambda cell: (cell["unsteered_c2st"] or {}).get(what)


def _over_real(cell: Stored) -> float:
    fsd = cell["scores"]["fsd"]
    return float(fsd["value"] - fsd["real"])


COLUMNS = (
    _score("fsd", "FSD"),
    Column("fsd_above_real", "FSD above real", _over_real, lambda _: 0.0),
    Column("worst_octave", "worst octave", lambda cell: max(cell["octaves"])),
    Column("unsteered_c2st", "C2ST, unsteered", _unsteered("value"), _unsteered("real")),
    *(_family(name) for name, family in FAMILIES.items() if not family.steered),
    Column("nearest_ratio", "nearest ratio", lambda cell: cell["nearest_ratio"], lambda _: 1.0),
    Column("nfe_per_map", "NFE", lambda cell: cell["nfe_per_map"]),
    Column("cpu_seconds_per_map", "CPU s per map", lambda cell: cell["cpu_seconds_per_map"]),
)


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """Mean over seeds; `half` is half the width of its 95 % interval, None with one seed."""

    mean: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Student's interval: it takes the seeds' scores as normal."""
        mean, count = float(np.mean(values)), len(values)
        if count < 2:
            return cls(mean, None)
        quantile = float(student.ppf((1 + CONFIDENCE) / 2, count - 1))
        return cls(mean, quantile * float(np.std(values, ddof=1)) / math.sqrt(count))

    def __str__(self) -> str:
        return f"{self.mean:.3g}" + ("" if self.half is None else f" ± {self.half:.2g}")


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One method on one set with one number of targets, over the seeds that are done."""

    targets: str
    n: int
    method: str
    seeds: int
    figures: Mapping[str, Interval | None]


def rows(done: Sequence[tuple[Cell, Stored]]) -> list[Row]:
    """Return the rows of all cells that are done, and one of real maps for each set."""
    groups: dict[tuple[str, int, str], list[Stored]] = {}
    for cell, stored in done:
        groups.setdefault((cell.ground.targets.name, cell.n, cell.method), []).append(stored)
        groups.setdefault((cell.ground.targets.name, cell.n, "real maps"), []).append(stored)
    return [
        Row(targets, n, method, len(cells), {c.key: _figure(c, method, cells) for c in COLUMNS})
        for (targets, n, method), cells in groups.items()
    ]


def _figure(column: Column, method: str, cells: Sequence[Stored]) -> Interval | None:
    if method != "real maps":
        found = [column.value(cell) for cell in cells]
        return Interval.of([v for v in found if v is not None]) if None not in found else None
    if column.real is None:
        return None
    real = [value for cell in cells if (value := column.real(cell)) is not None]
    return Interval(float(np.median(real)), None) if real else None


def markdown(table: Sequence[Row], samples: int) -> str:
    """Write the table, one part per number of targets."""
    shown = [c for c in COLUMNS if any(row.figures[c.key] is not None for row in table)]
    header = ["targets", "method", *(c.title for c in shown), "seeds"]
    lines = []
    for n in dict.fromkeys(row.n for row in table):
        lines += [f"**n = {n}**, {samples} samples per cell", ""]
        lines += [_line(header), _line(["---"] * len(header))]
        for row in sorted((r for r in table if r.n == n), key=_place):
            found = [row.figures[column.key] for column in shown]
            figures = ["" if f is None else str(f) for f in found]
            seeds = "" if row.method == "real maps" else str(row.seeds)
            lines.append(_line([row.targets, row.method, *figures, seeds]))
        lines.append("")
    return "\n".join(lines)


def _place(row: Row) -> tuple[str, bool, float]:
    """Sets by name, real maps first, then methods by FSD."""
    fsd = row.figures["fsd"]
    return row.targets, row.method != "real maps", math.inf if fsd is None else fsd.mean


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def as_csv(done: Sequence[tuple[Cell, Stored]]) -> str:
    """Write one line per cell, with all its figures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["targets", "method", "n", "seed", "samples", *(c.key for c in COLUMNS)])
    for cell, stored in done:
        name = cell.ground.targets.name
        values = [column.value(stored) for column in COLUMNS]
        writer.writerow([name, cell.method, cell.n, cell.seed, cell.samples, *values])
    return text.getvalue()
