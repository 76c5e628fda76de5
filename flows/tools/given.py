"""What a run makes beside its samples: the rest of maps known in part, fields, and objects in them.

Nothing of this is judged by the run's gate, so every result says what the gate made of the run.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from actors.workers import load_sampler
from flows.progress import listener
from flows.runs.reload import fitted_pipeline
from flows.settings import RunSettings
from flows.tools.export import run_source
from ood_core.errors import InputError, RunIncomplete
from ood_core.exporting.exports import plan_export
from ood_core.exporting.injections import catalogue_path, require_free, write_injected
from ood_core.exporting.source import MAPS, SAMPLE, MemorySource, gathered
from ood_core.limits import USUAL
from ood_core.maps.readers import read_maps
from ood_core.store.run import RunStore
from ood_core.synthesis.cubes import make_cube
from ood_core.synthesis.fields import make_field
from ood_core.synthesis.injection import inject
from ood_core.synthesis.inpainting import inpaint
from ood_core.synthesis.pipeline import Each, Pipeline

T = TypeVar("T")


def inpaint_file(
    run: RunStore,
    settings: RunSettings,
    path: str,
    array: str | None,
    draws: int,
    seed: int,
    out: str,
) -> dict[str, Any]:
    """Read maps with NaN, draw what they lack and write all draws, those of the first map first.

    Raises:
        InputError: maps that cannot be read or inpainted, or an impossible place.
        RunIncomplete: the run is not fitted yet.
    """
    pipeline = _fitted(run, settings, out)
    maps = read_maps(path, array, USUAL)
    if maps.unit != pipeline.targets.unit:
        raise InputError(
            f"{path}: got maps in {maps.unit or 'no unit'}; expected "
            f"{pipeline.targets.unit or 'no unit'}, as the targets of {run.root} have; convert them"
        )
    identity = run.record["identity"]
    made = inpaint(pipeline, identity, maps.values, draws, seed, each=_each("inpaint"))
    _write(np.concatenate(list(made)), pipeline, out, "inpainted")
    names = {"maps": list(maps.ids), "draws": draws, "seed": seed}
    return {**names, "missing": float(np.isnan(maps.values).mean()), **_about(run, out)}


def field_file(
    run: RunStore,
    settings: RunSettings,
    size: tuple[int, int],
    number: int,
    periodic: bool,
    out: str,
) -> dict[str, Any]:
    """Make one field, `(rows, columns)`, and write it.

    Raises:
        InputError: targets or a size of which no field can be made, or an impossible place.
        RunIncomplete: the run is not fitted yet.
    """
    pipeline = _fitted(run, settings, out)
    sampler = load_sampler(run, pipeline)
    made = make_field(
        pipeline, sampler, run.record["identity"], size, number, periodic=periodic,
        each=_each("field"),
    )  # fmt: skip
    _write(made[None], pipeline, out, "field")
    about = {"size": list(size), "number": number, "periodic": periodic}
    return {**about, "unit": pipeline.targets.unit, **_about(run, out)}


def cube_file(
    run: RunStore, settings: RunSettings, slices: int, depth: int, number: int, out: str
) -> dict[str, Any]:
    """Make one cube of slices, for targets that are cubes of `slices`, and write it.

    Raises:
        InputError: targets that are no cubes, impossible numbers, or an impossible place.
        RunIncomplete: the run is not fitted yet.
    """
    pipeline = _fitted(run, settings, out)
    sampler = load_sampler(run, pipeline)
    made = make_cube(pipeline, sampler, run.record["identity"], slices, depth, number)
    _write(made, pipeline, out, "slice")
    return {"depth": depth, "slices": slices, "number": number, **_about(run, out)}


def inject_file(
    run: RunStore, path: str, array: str | None, start: int, number: int, seed: int, force: bool,
    out: str,
) -> dict[str, Any]:  # fmt: skip
    """Lay samples `start <= i < start + number` of a run into a field, and write it with its truth.

    Copies of targets are passed over, as in an export.

    Raises:
        InputError: a field that cannot be read or is no place for the samples, fewer samples than
            are asked for, or an impossible place.
        Quarantined: the gate refused the samples.
        RunIncomplete: some samples are missing, or are not judged yet.
    """
    require_free(Path(out))
    source = run_source(run, force)
    maps = read_maps(path, array, USUAL)
    unit, about = maps.unit, source.about
    if len(maps) != 1 or unit != about.unit:
        raise InputError(
            f"{path}: got {len(maps)} maps in {unit or 'no unit'}; expected one field in "
            f"{about.unit or 'no unit'}, as the samples of {run.root} have"
        )
    if start < 0 or number < 1 or start + number > len(source):
        raise InputError(
            f"got samples {start} to {start + number - 1}; expected some of the {len(source)} of "
            f"{run.root}; ask for fewer, or `farfield extend` the run"
        )
    rows = gathered(list(source.blocks(start, start + number)))
    found = inject(maps.values[0], rows[MAPS], seed=seed)
    write_injected(Path(out), found, rows[SAMPLE], maps.header, about)
    return {
        "field": path,
        "objects": len(found.truth["x"]),
        "faint": [int(rows[SAMPLE][i]) for i in found.faint],
        "flux": float(found.truth["flux"].sum()),
        "seed": seed,
        "catalogue": str(catalogue_path(Path(out))),
        **_about(run, out),
    }


def _each(stage: str) -> Each:
    """Report pieces of work as the progress of a stage."""

    def shown(pieces: Sequence[T]) -> Iterator[T]:
        listener.get().begin(stage, len(pieces), 0)
        for piece in pieces:
            yield piece
            listener.get().advance(stage, 1)

    return shown


def _fitted(run: RunStore, settings: RunSettings, out: str) -> Pipeline:
    """Load what was fitted, and refuse a place of an unknown format before the work begins."""
    pipeline = fitted_pipeline(run, settings)
    if not run.has_prior:
        raise RunIncomplete(f"{run.root}: the prior is not fitted; `farfield run` it first")
    plan_export(MemorySource.of(pipeline.targets.fit[:1], pipeline.targets), out, None)
    return pipeline


def _write(maps: Any, pipeline: Pipeline, out: str, name: str) -> None:
    plan_export(MemorySource.of(maps, pipeline.targets, name), out, None).write()


def _about(run: RunStore, out: str) -> dict[str, Any]:
    return {"run": run.record["identity"], "gate": run.state, "out": out}
