"""Labels of targets: read from a text file, one per line, or measured on the maps themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch

from ood_core.arrays import Maps
from ood_core.errors import InputError
from ood_core.evaluation.downstream import Task
from ood_core.evaluation.learners import Labels
from ood_core.metrics.objects import above_background, concentration, ellipticity, flux

LARGEST = 2**24  # bytes of a file of labels
MAX_CLASSES = 10  # distinct numbers; with more they are values
PARTS = 3  # classes that a measured label is cut into

Measure = Callable[[Maps], Labels]


def _flux(maps: Maps) -> Labels:
    return flux(maps)[:, 0]


def _concentration(maps: Maps) -> Labels:
    return concentration(maps)[:, 0]


def _ellipticity(maps: Maps) -> Labels:
    return ellipticity(maps)[:, 0].square().sum(-1).sqrt()


MEASURES: dict[str, Measure] = {
    "flux": _flux,
    "concentration": _concentration,
    "ellipticity": _ellipticity,
}
"""Of the object at the middle of a map in physical units, above its background; NaN where none."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class TargetLabels:
    """A task with a label per target in file order; `measure` is there where maps tell it."""

    task: Task
    labels: Labels
    measure: Measure | None = None


def measured_labels(name: str, targets: Maps, fit: int, parts: int | None) -> TargetLabels:
    """Measure labels on maps in physical units and cut them into classes of equal fit targets."""
    raw = MEASURES[name]

    def of(maps: Maps) -> Labels:
        return raw(above_background(maps.double())).double()

    edges = _edges(of(targets)[:fit], parts or PARTS)
    task = Task(f"{name} class", _ranges(edges))

    def measure(maps: Maps) -> Labels:
        return _cut(of(maps), edges)

    return TargetLabels(task, measure(targets), measure)


def read_labels(path: Path, targets: int, fit: int, parts: int | None) -> TargetLabels:
    """Read a label per target; a first line more is their name; `nan` and '' are no label.

    Numbers of more than ten distinct values are values, and are cut into classes if `parts` says
    so; anything else is the name of a class.

    Raises:
        InputError: the file cannot be read, or has another number of lines.
    """
    lines = _lines(path)
    name = path.stem
    if len(lines) == targets + 1:
        name, *lines = lines
    if len(lines) != targets:
        raise InputError(
            f"{path}: got {len(lines)} lines; expected {targets}, one label per target in file "
            "order, with or without a line for its name first"
        )
    missing = [line.lower() in ("", "nan") for line in lines]
    given = [line for line, none in zip(lines, missing, strict=True) if not none]
    numbers = _numbers(given)
    if numbers is None or len(set(numbers)) <= MAX_CLASSES:
        classes = sorted(set(given), key=_order)
        place = {word: float(i) for i, word in enumerate(classes)}
        found = [np.nan if n else place[w] for w, n in zip(lines, missing, strict=True)]
        return TargetLabels(Task(name, tuple(classes)), torch.tensor(found, dtype=torch.float64))
    values = torch.tensor(
        [np.nan if n else float(w) for w, n in zip(lines, missing, strict=True)],
        dtype=torch.float64,
    )
    if parts is None:
        return TargetLabels(Task(name), values)
    edges = _edges(values[:fit], parts)
    return TargetLabels(Task(f"{name} class", _ranges(edges)), _cut(values, edges))


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); check --labels") from error
    if len(content) > LARGEST:
        raise InputError(f"{path}: got more than {LARGEST:,} bytes; expected a label per line")
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _numbers(words: list[str]) -> list[float] | None:
    try:
        found = [float(word) for word in words]
    except ValueError:
        return None
    return found if np.isfinite(found).all() else None


def _order(word: str) -> tuple[float, str]:
    numbers = _numbers([word])
    return (numbers[0] if numbers else np.inf, word)


def _edges(values: Labels, parts: int) -> Labels:
    """Inner edges of classes of equal numbers of fit targets."""
    known = values[~values.isnan()]
    if len(known) < 2:
        raise InputError(f"got {len(known)} fit targets with a label; expected two or more")
    return known.quantile(torch.arange(1, parts, dtype=torch.float64) / parts)


def _cut(values: Labels, edges: Labels) -> Labels:
    return torch.where(values.isnan(), torch.nan, torch.bucketize(values, edges).double())


def _ranges(edges: Labels) -> tuple[str, ...]:
    low, high = ["", *(f"{e:.3g}" for e in edges.tolist())], [*(f"{e:.3g}" for e in edges), ""]
    return tuple(
        f"{a} to {b}" if a and b else f"up to {b}" if b else f"above {a}"
        for a, b in zip(low, high, strict=True)
    )
