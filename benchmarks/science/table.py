"""The table: means over seeds with their intervals, and paired differences, as Markdown.

    python -m benchmarks.science.table FILE ...

prints it again from the scores by seed that `farfield bench science` stores. Seeds of a target set
share the fit targets and the random halves of held-out ones over all methods, so that differences
of two methods are taken seed by seed. Their interval is 95 % of Student's t over seeds, and its
test is adjusted for all rivals and target sets of a column (Holm): *lower* and *higher* stand only
where that leaves p at or below 0.05. Differences that do not vary at all, as of scores with few
values, have no word: their spread is not known.
"""

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from scipy.stats import t as student
from scipy.stats import ttest_1samp

from benchmarks.science.cells import Cell
from ood_core.evaluation.features import FAMILIES
from ood_core.evaluation.results import ALPHA
from ood_core.metrics.discrepancy import adjusted

OWN = "calibrated"
CONFIDENCE = 0.95
Record = Mapping[str, Any]
"""Figures of one cell by name, beside those of real maps; see `record`."""
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


def record(cell: Cell, stored: Stored) -> dict[str, Any]:
    """Return what the table needs of a cell, by name; None is a figure that is not there."""
    return {
        "targets": cell.ground.targets.name,
        "method": cell.method,
        "n": cell.n,
        "seed": cell.seed,
        "samples": cell.samples,
        "figures": {c.key: c.value(stored) for c in COLUMNS},
        "real": {c.key: c.real(stored) for c in COLUMNS if c.real},
    }


def rows(done: Sequence[Record]) -> list[Row]:
    """Return the rows of all cells that are done, and one of real maps for each set."""
    groups: dict[tuple[str, int, str], list[Record]] = {}
    for one in done:
        for method in (one["method"], "real maps"):
            groups.setdefault((one["targets"], one["n"], method), []).append(one)
    return [
        Row(targets, n, method, len(cells), {c.key: _figure(c.key, method, cells) for c in COLUMNS})
        for (targets, n, method), cells in groups.items()
    ]


def _figure(key: str, method: str, cells: Sequence[Record]) -> Interval | None:
    if method != "real maps":
        found = [one["figures"].get(key) for one in cells]
        return Interval.of(found) if None not in found else None
    real = [value for one in cells if (value := one["real"].get(key)) is not None]
    return Interval(float(np.median(real)), None) if real else None


@final
@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of `OWN` less that of a rival, over the seeds that both have.

    `p` is adjusted for all rivals and sets with this figure and number of targets.
    """

    targets: str
    n: int
    rival: str
    key: str
    seeds: int
    interval: Interval
    p: float

    def __str__(self) -> str:
        mean = self.interval.mean
        word = ("lower" if mean < 0 else "higher") if self.p <= ALPHA else ""
        return f"{self.interval} {word}".rstrip()


def differences(done: Sequence[Record]) -> list[Difference]:
    """Return all paired differences of two seeds or more."""
    figures = {
        (one["n"], key, one["targets"], one["method"], one["seed"]): value
        for one in done
        for key, value in one["figures"].items()
        if value is not None
    }
    groups: dict[tuple[int, str], dict[tuple[str, str], list[float]]] = {}
    for (n, key, targets, method, seed), value in figures.items():
        own = figures.get((n, key, targets, OWN, seed))
        if method != OWN and own is not None:
            pairs = groups.setdefault((n, key), {})
            pairs.setdefault((targets, method), []).append(own - value)
    found = []
    for (n, key), pairs in groups.items():
        some = {place: apart for place, apart in pairs.items() if len(apart) > 1}
        p_values = adjusted([_p_value(apart) for apart in some.values()])
        for ((targets, rival), apart), p in zip(some.items(), p_values, strict=True):
            interval = Interval.of(apart)
            found.append(Difference(targets, n, rival, key, len(apart), interval, p))
    return found


def _p_value(apart: Sequence[float]) -> float:
    return float(ttest_1samp(apart, 0).pvalue) if np.ptp(apart) > 0 else 1.0


def markdown(done: Sequence[Record]) -> str:
    """Write the tables, of scores and of differences, one of each per number of targets."""
    table, apart = rows(done), differences(done)
    shown = [c for c in COLUMNS if any(row.figures[c.key] is not None for row in table)]
    titles = [column.title for column in shown]
    lines = []
    for n in dict.fromkeys(row.n for row in table):
        samples = sorted({one["samples"] for one in done if one["n"] == n})
        lines += [f"**n = {n}**, {' or '.join(map(str, samples))} samples per cell", ""]
        lines += _head(["targets", "method", *titles, "seeds"])
        for row in sorted((r for r in table if r.n == n), key=_place):
            found = [row.figures[column.key] for column in shown]
            figures = ["" if f is None else str(f) for f in found]
            seeds = "" if row.method == "real maps" else str(row.seeds)
            lines.append(_line([row.targets, row.method, *figures, seeds]))
        pairs = {(d.targets, d.rival, d.key): d for d in apart if d.n == n}
        if pairs:
            lines += ["", f"**n = {n}**, `{OWN}` less each rival, seed by seed", ""]
            lines += _head(["targets", "rival", *titles, "seeds"])
        for targets, rival in sorted({(d.targets, d.rival) for d in pairs.values()}):
            ours = [pairs.get((targets, rival, column.key)) for column in shown]
            figures = ["" if d is None else str(d) for d in ours]
            seeds = str(max(d.seeds for d in ours if d))
            lines.append(_line([targets, rival, *figures, seeds]))
        lines.append("")
    return "\n".join(lines)


def _place(row: Row) -> tuple[str, bool, float]:
    """Sets by name, real maps first, then methods by FSD."""
    fsd = row.figures["fsd"]
    return row.targets, row.method != "real maps", math.inf if fsd is None else fsd.mean


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), _line(["---"] * len(cells))]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    read = [one for path in sys.argv[1:] for one in json.loads(Path(path).read_text())["scores"]]
    sys.stdout.write(markdown(read))
