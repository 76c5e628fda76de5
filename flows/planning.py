"""From settings to a planned run: everything is checked before anything is written."""

import platform
import shutil
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import torch

from actors.line import require_fit
from flows.settings import RunSettings
from ood_core.bases.loading import BaseModel, load_base
from ood_core.calibration import EXPERTS, band_knots
from ood_core.errors import TargetError
from ood_core.identity import identity_record
from ood_core.maps.mapset import MapSet, check
from ood_core.maps.transforms import RangeTransform
from ood_core.priors.gaussian import fit_gaussian
from ood_core.specs import CalibrationSpec, Method, TargetsSpec, resolve_method
from ood_core.store.arrays import Column, Table
from ood_core.store.files import sweep
from ood_core.store.growth import settle
from ood_core.store.plan import ShardPlan
from ood_core.store.run import RunStore, ShardedStage
from ood_core.store.schema import calibration_columns, latent_columns, sample_columns
from ood_core.store.targets import load_targets, read_targets, write_targets

INVERSION_SHARD = 16
LEAST_TARGETS = 4
LEAST_SIDE = 16
AUTO_NOISE_TO_SIGNAL = 12.0
GAUSSIAN_WHITE = 1.0
"""Noise-to-signal ratio around which the Gaussian expert earns its weight."""
PACKAGES = ("farfield", "torch", "diffusers", "numpy", "zarr", "ray", "prefect", "astropy")


def prepare(settings: RunSettings, out: str) -> RunStore:
    """Check settings, targets and base; plan the run at `out`, or return the one that is there.

    Raises:
        InputError: unusable targets, base or settings.
        IdentityRefused: another run lives at `out`.
    """
    run = RunStore.at(out)
    maps, model, method = inspect_inputs(settings)
    record = identity_record(
        settings.targets, maps.digest(), model.digest, method, settings.generation
    )
    fit = settings.targets.fit_count(len(maps))
    plans = shard_plans(settings, method, fit)
    if run.claim(record, plans, settings.execution.number_type):
        _write(run, settings, maps, model, method, record, plans)
    sweep(run.root)
    settle(run)
    return run


def inspect_inputs(settings: RunSettings) -> tuple[MapSet, BaseModel, Method]:
    """Read and check targets and base, and settle the method."""
    maps = read_targets(settings.targets)
    model = load_base(settings.base)
    check(maps, model.size_multiple, model.channels)
    _require_square(maps)
    _require_split(settings.targets, maps)
    _require_range(settings.targets, maps)
    schedule = model.denoiser.schedule
    method = resolve_method(settings.method, schedule.index_of(AUTO_NOISE_TO_SIGNAL))
    require_fit(settings.base, method.level, schedule)
    return maps, model, method


def shard_plans(settings: RunSettings, method: Method, fit: int) -> dict[ShardedStage, ShardPlan]:
    """Units of work per stage: one level, a batch of targets, a shard of samples."""
    levels = method.steps + 1 if method.calibration is not None else 0
    return {
        "calibrate": ShardPlan(levels, 1),
        "invert": ShardPlan(fit, min(INVERSION_SHARD, fit)),
        "generate": ShardPlan(settings.generation.samples, settings.generation.shard_size),
    }


def _require_square(maps: MapSet) -> None:
    height, width = maps.values.shape[-2:]
    if height != width or height < LEAST_SIDE:
        raise TargetError(
            f"{maps.source}: got maps of {height} x {width} px; expected squares of at least "
            f"{LEAST_SIDE} px a side, as the symmetries and the wavelets need: cut the maps"
        )


def _require_split(spec: TargetsSpec, maps: MapSet) -> None:
    fit = spec.fit_count(len(maps))
    if min(fit, len(maps) - fit) < LEAST_TARGETS:
        raise TargetError(
            f"{maps.source}: got {len(maps)} maps, split into {fit} to fit and {len(maps) - fit} "
            f"held out; expected at least {LEAST_TARGETS} of each: add maps or change "
            "targets.held_out"
        )


def _require_range(spec: TargetsSpec, maps: MapSet) -> None:
    """Refuse maps that the transform cannot take, held-out ones included."""
    fit = maps.values[: spec.fit_count(len(maps))]
    try:
        RangeTransform.measure(spec.transform, fit).forward(maps.values)
    except TargetError as error:
        raise TargetError(f"{maps.source}: {error}") from error


def _write(
    run: RunStore,
    settings: RunSettings,
    maps: MapSet,
    model: BaseModel,
    method: Method,
    record: dict[str, Any],
    plans: dict[ShardedStage, ShardPlan],
) -> None:
    """Create all tables, then the plan, then `run.json`, which makes the run exist."""
    run.root.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run.root / "receipts", ignore_errors=True)  # they vouched for another run
    write_targets(run, maps, settings.targets)
    shape = maps.values.shape[1:]
    words = {"title": settings.name, "source": "Farfield"}
    _create(run, "invert", "row", plans, latent_columns(shape), words)
    synthetic = {**words, "synthetic": True}
    _create(run, "generate", "sample", plans, sample_columns(shape, maps.unit), synthetic)
    if method.calibration is not None:
        columns = calibration_columns(method.calibration.bands, len(EXPERTS))
        fitted = _calibration_words(run, settings, method.calibration)
        _create(run, "calibrate", "level", plans, columns, fitted)
    run.write_plan(record, _record(settings, model, method), plans, settings.execution.number_type)


def _create(
    run: RunStore,
    stage: ShardedStage,
    axis: str,
    plans: dict[ShardedStage, ShardPlan],
    columns: list[Column],
    words: dict[str, Any],
) -> None:
    plan = plans[stage]
    Table.create(run.table(stage).path, axis, plan.rows, plan.shard_rows, columns, words)


def _calibration_words(
    run: RunStore, settings: RunSettings, spec: CalibrationSpec
) -> dict[str, Any]:
    fit, symmetries = load_targets(run).fit, settings.targets.symmetries
    return {
        "experts": list(EXPERTS),
        "knots": band_knots(fit.shape[-2], fit.shape[-1], spec.bands).tolist(),
        "rho": fit_gaussian(fit, "spectral_low_rank", symmetries, GAUSSIAN_WHITE).rho,
    }


def _record(settings: RunSettings, model: BaseModel, method: Method) -> dict[str, Any]:
    return {
        "name": settings.name,
        "settings": settings.model_dump(mode="json"),
        "method": asdict(method),
        "base": {
            "source": model.source,
            "digest": model.digest,
            "channels": model.channels,
            "size": model.size,
            "parameters": model.parameters,
            "prediction": model.prediction,
            "rulings": [asdict(ruling) for ruling in model.rulings],
        },
        "versions": {name: version(name) for name in PACKAGES},
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
