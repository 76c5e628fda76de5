"""Downstream gain of a run's samples: labels, training sets, and the stored record.

Labels are those of the targets, which samples inherit from their parents; or they are measured on
every map; or there are several runs, and each is a class of its own.

Where targets miss pixels, what these were filled with is not seen: they have the mean of the others
of their map and channel, and so have those of samples, by the masks of the fit targets in turn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from flows.progress import listener
from flows.runs.lifecycle import stored_settings
from flows.runs.stages import rewrite_report
from ood_core.arrays import Maps
from ood_core.errors import InputError, RunIncomplete
from ood_core.evaluation.downstream import (
    MULTIPLES,
    DownstreamResult,
    Labelled,
    Task,
    downstream_gain,
    inherited,
    trainings,
)
from ood_core.evaluation.features import without_missing
from ood_core.evaluation.probes import Labels
from ood_core.maps.target_set import TargetSet, common_transform
from ood_core.maps.transforms import RangeTransform
from ood_core.metrics.objects import above_background, concentration, ellipticity, flux
from ood_core.numerics.random import Root
from ood_core.store.files import exists, write_json
from ood_core.store.run import UTILITY, RunStore
from ood_core.store.targets import load_targets

MAX_PIXELS = 2**27  # of synthetic maps that are read, half a gigabyte
MAX_BYTES = 2**24  # bytes of a file of labels
MAX_CLASSES = 10  # distinct numbers; with more they are values
MEASURED_CLASSES = 3  # classes that a measured label is cut into

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
    """A task with a label per target in file order; `measure`, if any, computes it from maps."""

    task: Task
    labels: Labels
    measure: Measure | None = None


def measured_labels(name: str, targets: Maps, fit: int, parts: int | None) -> TargetLabels:
    """Measure labels on maps in physical units and cut them into classes of equal fit targets."""
    raw = MEASURES[name]

    def of(maps: Maps) -> Labels:
        return raw(above_background(maps.double())).double()

    edges = _edges(of(targets)[:fit], parts or MEASURED_CLASSES)
    task = Task(f"{name} class", _ranges(edges))

    def measure(maps: Maps) -> Labels:
        return _cut(of(maps), edges)

    return TargetLabels(task, measure(targets), measure)


def read_labels(path: Path, targets: int, fit: int, parts: int | None) -> TargetLabels:
    """Read one label per target; one more line at the start is a name; `nan` and '' mean no label.

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
        number = {name: float(i) for i, name in enumerate(classes)}
        found = [np.nan if n else number[w] for w, n in zip(lines, missing, strict=True)]
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
            content = file.read(MAX_BYTES + 1)
        text = content.decode("utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}); check --labels") from error
    if len(content) > MAX_BYTES:
        raise InputError(f"{path}: got more than {MAX_BYTES:,} bytes; expected a label per line")
    return [line.strip() for line in text.removesuffix("\n").split("\n")]


def _numbers(texts: list[str]) -> list[float] | None:
    try:
        found = [float(text) for text in texts]
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


def measure_utility(run: RunStore, labels: str, parts: int | None) -> DownstreamResult:
    """Compare training sets by a label: a file with one per target, or the name of a measure.

    Raises:
        InputError: unusable labels, or too few of them.
        RunIncomplete: samples are missing.
    """
    require_samples(run)
    targets = load_targets(run)
    real, fit = without_filling(targets), targets.fit_count
    known = (
        measured_labels(labels, real, fit, parts)
        if labels in MEASURES
        else read_labels(Path(labels), len(real), fit, parts)
    )
    ranged, synthetic = targets.ranged(real.numpy()), _synthetic(run, known, targets)

    def label(ranged: Maps) -> Labels:
        assert known.measure is not None, "only passed on for measured labels"
        return known.measure(torch.from_numpy(targets.physical(ranged)))

    return _compared(
        known.task,
        Labelled(ranged[:fit], known.labels[:fit]),
        Labelled(ranged[fit:], known.labels[fit:]),
        synthetic,
        [run],
        None if known.measure is None else label,
    )


def measure_utility_of_classes(runs: Sequence[RunStore]) -> DownstreamResult:
    """Compare training sets where every run is a class, named after the run.

    Raises:
        InputError: the runs' maps differ in shape.
        RunIncomplete: samples are missing.
    """
    stored = [load_targets(run) for run in runs]
    shapes = {targets.shape for targets in stored}
    if len(shapes) > 1:
        raise InputError(f"got maps of shapes {sorted(shapes)}; expected runs of one shape")
    for run in runs:
        require_samples(run)
    whole = [without_filling(targets) for targets in stored]
    fit = [m[: targets.fit_count] for m, targets in zip(whole, stored, strict=True)]
    held_out = [m[targets.fit_count :] for m, targets in zip(whole, stored, strict=True)]
    numbers = [np.arange(run.plan("generate").rows) for run in runs]
    made = [
        _read(run, targets, _chosen(run, n, MULTIPLES[-1] * targets.fit_count))
        for run, targets, n in zip(runs, stored, numbers, strict=True)
    ]
    # Each run has a range of its own, which would tell the classes apart: one for all.
    transform = common_transform(stored)

    def joined(sets: Sequence[Maps]) -> Labelled:
        labels = torch.repeat_interleave(
            torch.arange(len(sets)), torch.tensor([len(maps) for maps in sets])
        )
        return Labelled(_ranged(transform, torch.cat(list(sets))), labels.double())

    names = tuple(str(run.record["name"]) for run in runs)
    task = Task("which run", names)
    return _compared(task, joined(fit), joined(held_out), joined(made), runs, None)


def without_filling(targets: TargetSet) -> Maps:
    """Return all targets in physical units, missing pixels with the mean of the others."""
    missing = None if targets.missing is None else torch.from_numpy(targets.missing)
    return without_missing(torch.from_numpy(targets.values), missing)[0]


def _synthetic(run: RunStore, known: TargetLabels, targets: TargetSet) -> Labelled:
    """As many samples with a label as the largest training set takes, at random."""
    fit = targets.fit_count
    parents = torch.from_numpy(run.table("generate").read("parents"))
    labels = inherited(known.labels[:fit], parents, known.task)
    numbers = np.arange(len(parents)) if known.measure else np.flatnonzero(~labels.isnan().numpy())
    chosen = _chosen(run, numbers, MULTIPLES[-1] * fit)
    maps = _read(run, targets, chosen)
    found = known.measure(maps) if known.measure else labels[torch.from_numpy(chosen)]
    return Labelled(_ranged(targets.transform, maps), found)


def _chosen(run: RunStore, numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    pixels = math.prod(load_targets(run).shape)
    rng = Root.of(run.record["identity"]).child("utility", "samples").generator()
    numbers = np.setdiff1d(numbers, run.left_out)
    count = min(len(numbers), most, max(1, MAX_PIXELS // pixels))
    return np.sort(rng.permutation(numbers)[:count])


def _read(run: RunStore, targets: TargetSet, numbers: NDArray[np.int64]) -> Maps:
    maps = torch.from_numpy(run.table("generate").pick("maps", numbers.tolist()))
    return masked_in_turn(maps, numbers, targets)


def masked_in_turn(maps: Maps, numbers: NDArray[np.int64], targets: TargetSet) -> Maps:
    """Return samples of these numbers, each without the pixels that one fit target misses."""
    if targets.missing is None:
        return maps
    mask = targets.missing[: targets.fit_count][numbers % targets.fit_count]
    return without_missing(maps, torch.from_numpy(mask))[0]


def _ranged(transform: RangeTransform, maps: Maps) -> Maps:
    return torch.from_numpy(transform.forward(maps.numpy()))


def _compared(
    task: Task,
    real: Labelled,
    held_out: Labelled,
    synthetic: Labelled,
    runs: Sequence[RunStore],
    label: Measure | None,
) -> DownstreamResult:
    identities = "+".join(run.record["identity"] for run in runs)
    bar = listener.get()
    bar.begin("utility", trainings(len(real.known()), len(synthetic.known())), 0)
    return downstream_gain(
        task,
        real,
        held_out,
        synthetic,
        load_targets(runs[0]).symmetries,
        Root.of(identities).child("utility"),
        samples=sum(run.plan("generate").rows for run in runs),
        label=label,
        on_training=lambda done: bar.advance("utility", done),
    )


def keep_utility(run: RunStore, found: DownstreamResult) -> None:
    """Write the record beside the report and the report anew, with it in it."""
    write_json(run.root / UTILITY, found.to_json())
    if exists(run.root / "report" / "report.json"):
        rewrite_report(run, stored_settings(run))


def require_samples(run: RunStore) -> None:
    """Refuse a run that is not finished.

    Raises:
        RunIncomplete: samples are missing.
    """
    missing = len(run.ledger("generate").missing(run.plan("generate")))
    if missing:
        raise RunIncomplete(
            f"{run.root}: {missing} shards of samples are missing; finish it with `farfield run`"
        )
