"""What training with a run's samples is worth: gathers maps and labels, keeps the record.

Labels are those of the targets, which samples inherit from their parents; or they are measured on
every map; or there are several runs, and each is a class of its own.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flows.progress import listener
from flows.runs.extension import stored_settings
from flows.runs.stages import rewrite_report
from flows.tools.labels import MEASURES, Measure, TargetLabels, measured_labels, read_labels
from ood_core.arrays import Maps
from ood_core.errors import InputError, RunIncomplete
from ood_core.evaluation.downstream import (
    INDEX,
    MULTIPLES,
    Labelled,
    Task,
    inherited,
    trainings,
    utility,
)
from ood_core.evaluation.gains import Utility
from ood_core.evaluation.learners import Labels
from ood_core.maps.transforms import RangeTransform
from ood_core.numerics.random import Stream, generator, root_key
from ood_core.store.files import exists, write_json
from ood_core.store.run import UTILITY, RunStore
from ood_core.store.targets import load_targets

MAX_PIXELS = 2**27  # of synthetic maps that are read, half a gigabyte


def measure_utility(run: RunStore, labels: str, parts: int | None) -> Utility:
    """Compare training sets by a label: a file with one per target, or the name of a measure.

    Raises:
        InputError: unusable labels, or too few of them.
        RunIncomplete: samples are missing.
    """
    require_samples(run)
    targets = load_targets(run)
    real = torch.from_numpy(targets.physical(torch.cat([targets.fit, targets.held_out])))
    fit = len(targets.fit)
    known = (
        measured_labels(labels, real, fit, parts)
        if labels in MEASURES
        else read_labels(Path(labels), len(real), fit, parts)
    )
    synthetic = _synthetic(run, known, targets.transform, fit)

    def label(ranged: Maps) -> Labels:
        assert known.measure is not None, "asked for measured labels alone"
        return known.measure(torch.from_numpy(targets.physical(ranged)))

    return _compared(
        known.task,
        Labelled(targets.fit, known.labels[:fit]),
        Labelled(targets.held_out, known.labels[fit:]),
        synthetic,
        [run],
        None if known.measure is None else label,
    )


def measure_utility_of_classes(runs: Sequence[RunStore]) -> Utility:
    """Compare training sets where every run is a class, named after the run.

    Raises:
        InputError: the runs' maps differ in shape.
        RunIncomplete: samples are missing.
    """
    stored = [load_targets(run) for run in runs]
    shapes = {tuple(targets.fit.shape[1:]) for targets in stored}
    if len(shapes) > 1:
        raise InputError(f"got maps of shapes {sorted(shapes)}; expected runs of one shape")
    for run in runs:
        require_samples(run)
    fit = [torch.from_numpy(targets.physical(targets.fit)) for targets in stored]
    held_out = [torch.from_numpy(targets.physical(targets.held_out)) for targets in stored]
    numbers = [np.arange(run.plan("generate").rows) for run in runs]
    made = [
        _read(run, _chosen(run, n, MULTIPLES[-1] * len(maps)))
        for run, n, maps in zip(runs, numbers, fit, strict=True)
    ]
    # Each run has a range of its own, which would tell the classes apart: one for all.
    transform = RangeTransform.measure(stored[0].transform.kind, torch.cat(fit).numpy())

    def joined(sets: Sequence[Maps]) -> Labelled:
        labels = torch.repeat_interleave(
            torch.arange(len(sets)), torch.tensor([len(maps) for maps in sets])
        )
        return Labelled(_ranged(transform, torch.cat(list(sets))), labels.double())

    names = tuple(str(run.record["name"]) for run in runs)
    task = Task("which run", names)
    return _compared(task, joined(fit), joined(held_out), joined(made), runs, None)


def _synthetic(run: RunStore, known: TargetLabels, transform: RangeTransform, fit: int) -> Labelled:
    """As many samples with a label as the largest training set takes, at random."""
    parents = torch.from_numpy(run.table("generate").read("parents"))
    labels = inherited(known.labels[:fit], parents, known.task)
    numbers = np.arange(len(parents)) if known.measure else np.flatnonzero(~labels.isnan().numpy())
    chosen = _chosen(run, numbers, MULTIPLES[-1] * fit)
    maps = _read(run, chosen)
    found = known.measure(maps) if known.measure else labels[torch.from_numpy(chosen)]
    return Labelled(_ranged(transform, maps), found)


def _chosen(run: RunStore, numbers: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    pixels = load_targets(run).fit[0].numel()
    rng = generator(root_key(run.record["identity"] + "/utility"), INDEX, stream=Stream.RESAMPLE)
    count = min(len(numbers), most, max(1, MAX_PIXELS // pixels))
    return np.sort(rng.permutation(numbers)[:count])


def _read(run: RunStore, numbers: NDArray[np.int64]) -> Maps:
    return torch.from_numpy(run.table("generate").pick("maps", numbers.tolist()))


def _ranged(transform: RangeTransform, maps: Maps) -> Maps:
    return torch.from_numpy(transform.forward(maps.numpy()))


def _compared(
    task: Task,
    real: Labelled,
    held_out: Labelled,
    synthetic: Labelled,
    runs: Sequence[RunStore],
    label: Measure | None,
) -> Utility:
    identities = "+".join(run.record["identity"] for run in runs)
    bar = listener.get()
    bar.begin("utility", trainings(len(real.known()), len(synthetic.known())), 0)
    return utility(
        task,
        real,
        held_out,
        synthetic,
        tuple(runs[0].record["identity_record"]["targets"]["symmetries"]),
        root_key(identities + "/utility"),
        samples=sum(run.plan("generate").rows for run in runs),
        label=label,
        told=lambda done: bar.advance("utility", done),
    )


def keep_utility(run: RunStore, found: Utility) -> None:
    """Write the record beside the report and the report anew, with it in it."""
    write_json(run.root / UTILITY, found.as_dict())
    if exists(run.root / "report" / "report.json"):
        rewrite_report(run, stored_settings(run))


def require_samples(run: RunStore) -> None:
    """Refuse a run that is not finished.

    Raises:
        RunIncomplete: samples are missing.
    """
    missing = len(run.receipts("generate").missing(run.plan("generate")))
    if missing:
        raise RunIncomplete(
            f"{run.root}: {missing} shards of samples are missing; finish it with `farfield run`"
        )
