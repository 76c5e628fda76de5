"""From settings to a planned run: everything is checked before anything is written."""

import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, final

import torch

from actors.line import require_fit
from flows.runs.lease_guard import holding
from flows.runs.level_choice import LevelChoice, recorded, settle_level, with_level
from flows.settings import RunSettings
from ood_core.arrays import Maps
from ood_core.config.identity import identity_record
from ood_core.config.method import AUTO_MIN_NOISE, CalibrationSpec, Method
from ood_core.config.targets import TargetsSpec
from ood_core.denoising.calibrated import EXPERTS, band_knots
from ood_core.errors import TargetError
from ood_core.estimators.families import fit_gaussian, require_ruled_in
from ood_core.estimators.patches import patch_shapes
from ood_core.maps.mapset import MapSet, check
from ood_core.maps.transforms import RangeTransform
from ood_core.models.loading import BaseModel, load_base
from ood_core.store.arrays import Column, Table
from ood_core.store.durable import persist_tables
from ood_core.store.files import remove, remove_tree, sweep
from ood_core.store.growth import settle
from ood_core.store.plan import ShardPlan
from ood_core.store.run import UTILITY, RunStore, ShardedStage
from ood_core.store.schema import calibration_columns, latent_columns, sample_columns
from ood_core.store.statistics import create_statistics, lay_ruler
from ood_core.store.targets import load_targets, read_targets, write_targets
from ood_core.synthesis.constructs import require_parents

INVERSION_SHARD = 16
MIN_TARGETS = 4
MIN_SIDE = 16
FITTED = ("patches.zarr", "prior.zarr", "domain.zarr", "walks")
GAUSSIAN_WHITE = 1.0
"""Noise-to-signal ratio around which the Gaussian expert earns its weight."""
PACKAGES = ("farfield", "torch", "diffusers", "numpy", "zarr", "ray", "prefect", "astropy")


@final
@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A run that was asked for: checked inputs, identity and shard plans; nothing is written."""

    run: RunStore
    settings: RunSettings
    maps: MapSet
    model: BaseModel
    method: Method
    record: dict[str, Any]
    plans: dict[ShardedStage, ShardPlan]
    dtype: str
    choice: LevelChoice | None = None

    @property
    def is_new(self) -> bool:
        """Whether the place is free of any run.

        Raises:
            IdentityRefused: another run lives there.
        """
        return self.run.claim(self.record, self.plans, self.dtype)

    def settle(self) -> None:
        """Write the plan where there is none yet and mend what a kill left behind.

        Only for who holds the run.
        """
        if self.is_new:
            _write(self)
        sweep(self.run.root)
        settle(self.run)


def ask(settings: RunSettings, out: str) -> Asked:
    """Check settings, targets, base and place.

    Raises:
        InputError: unusable targets, base or settings.
        IdentityRefused: another run lives at `out`.
    """
    run = RunStore.at(out)
    maps, model, method, choice = _inspected(settings, run)
    record = identity_record(
        settings.targets, maps.digest(), model.digest, method, settings.generation
    )
    plans = shard_plans(settings, method, settings.targets.fit_count(len(maps)))
    dtype = settings.execution.number_type
    asked = Asked(run, settings, maps, model, method, record, plans, dtype, choice)
    _ = asked.is_new
    return asked


def prepare(settings: RunSettings, out: str) -> RunStore:
    """Plan a run at `out` without working on it, or return the one that is there.

    Raises:
        InputError: unusable targets, base or settings.
        IdentityRefused: another run lives at `out`.
        InUse: a driver works on it.
        StoreUnwritable: the place is full, read-only or not ours.
    """
    asked = ask(settings, out)
    with holding(asked.run):
        asked.settle()
    return asked.run


def inspect_inputs(settings: RunSettings) -> tuple[MapSet, BaseModel, Method]:
    """Read and check targets and base, and settle the method."""
    return _inspected(settings, None)[:3]


def _inspected(
    settings: RunSettings, run: RunStore | None
) -> tuple[MapSet, BaseModel, Method, LevelChoice | None]:
    """The inputs, and how the level was chosen where that was left to measurement."""
    maps = read_targets(settings.targets)
    model = load_base(settings.base, max_bytes=settings.execution.max_base_bytes)
    check(maps, model.size_multiple, model.channels)
    _require_size(maps, model)
    _require_square(maps, model)
    _require_split(settings.targets, maps)
    _require_range(settings.targets, maps)
    require_ruled_in(settings.method.prior, settings.targets.symmetries)
    schedule = model.denoiser.schedule
    choice = settle_level(settings, maps, model, schedule.index_of(AUTO_MIN_NOISE), run)
    method = with_level(settings.method, choice).resolve(schedule)
    require_fit(settings.base, method.ends[1], schedule)
    if method.draw is not None and method.draw.construct == "combination":
        require_parents(method.draw.sources, settings.targets.fit_count(len(maps)))
    return maps, model, method, choice


def shard_plans(settings: RunSettings, method: Method, fit: int) -> dict[ShardedStage, ShardPlan]:
    """Units of work per stage: one level, a batch of targets, a shard of samples."""
    levels = method.steps + 1 if method.calibration is not None else 0
    return {
        "calibrate": ShardPlan(levels, 1),
        "invert": ShardPlan(fit, min(INVERSION_SHARD, fit)),
        "generate": ShardPlan(settings.generation.samples, settings.generation.shard_size),
    }


def _require_size(maps: MapSet, model: BaseModel) -> None:
    height, width = maps.values.shape[-2:]
    if model.fixed_size and (height, width) != (model.size, model.size):
        raise TargetError(
            f"{maps.source}: got maps of {height} x {width} px; expected {model.size} x "
            f"{model.size} px, the only size that {model.source} takes: cut or resample the maps, "
            "or choose another base"
        )


def _require_square(maps: MapSet, model: BaseModel) -> None:
    height, width = maps.values.shape[-2:]
    least = MIN_SIDE * (1 if model.codes is None else model.codes.factor)
    if height != width or height < least:
        raise TargetError(
            f"{maps.source}: got maps of {height} x {width} px; expected squares of at least "
            f"{least} px a side, as the symmetries and the wavelets need: cut the maps"
        )


def _require_split(spec: TargetsSpec, maps: MapSet) -> None:
    fit = spec.fit_count(len(maps))
    if min(fit, len(maps) - fit) < MIN_TARGETS:
        raise TargetError(
            f"{maps.source}: got {len(maps)} maps, split into {fit} to fit and {len(maps) - fit} "
            f"held out; expected at least {MIN_TARGETS} of each: add maps or change "
            "targets.held_out"
        )


def _require_range(spec: TargetsSpec, maps: MapSet) -> None:
    """Refuse maps that the transform cannot take, held-out ones included."""
    fit = maps.values[: spec.fit_count(len(maps))]
    try:
        RangeTransform.measure(spec.transform, fit).forward(maps.values)
    except TargetError as error:
        raise TargetError(f"{maps.source}: {error}") from error


def _write(asked: Asked) -> None:
    """Create all tables, then the plan, then `run.json`, which makes the run exist."""
    run, settings, plans, method = asked.run, asked.settings, asked.plans, asked.method
    for name in ("verdict.json", UTILITY):  # they were of another run, as are these:
        remove(run.root / name)
    for name in ("receipts", "failures", *FITTED):
        remove_tree(run.root / name)
    codes = asked.model.codes
    write_targets(run, asked.maps, settings.targets, codes and codes.encode)
    shape = asked.maps.values.shape[1:]
    words = {"title": settings.name, "source": "Farfield"}
    columns = latent_columns(shape, asked.model.code_shape(shape))
    _create(run, "invert", "row", plans, columns, words)
    synthetic = {**words, "synthetic": True}
    sources = 0 if method.draw is None else method.draw.sources
    columns = sample_columns(shape, asked.maps.unit, sources)
    _create(run, "generate", "sample", plans, columns, synthetic)
    if method.calibration is not None:
        fitted = _calibration_words(run, settings, method.calibration)
        columns = calibration_columns(method.calibration.bands, len(fitted["experts"]))
        _create(run, "calibrate", "level", plans, columns, fitted)
    targets = load_targets(run)
    kept = _record(settings, asked.model, method, targets.fit) | recorded(asked.choice)
    ruler = lay_ruler(targets, settings.targets.symmetries)
    create_statistics(run, ruler, plans["generate"])
    persist_tables(run.root)
    run.write_plan(asked.record, kept, plans, asked.dtype)


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
    fit, symmetries = load_targets(run).seen, settings.targets.symmetries
    shapes = patch_shapes(*fit.shape[1:]) if spec.patches else []
    return {
        "experts": [*EXPERTS, *(f"patches {side}x{side}, scale {scale}" for side, scale in shapes)],
        "knots": band_knots(fit.shape[-2], fit.shape[-1], spec.bands).tolist(),
        "rho": fit_gaussian(fit, "spectral_low_rank", symmetries, GAUSSIAN_WHITE).rho,
    }


def _record(settings: RunSettings, model: BaseModel, method: Method, fit: Maps) -> dict[str, Any]:
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
            **({"decoder_floor": model.codes.floor(fit)} if model.codes is not None else {}),
            "rulings": [asdict(ruling) for ruling in model.rulings],
        },
        "versions": {name: version(name) for name in PACKAGES},
        "machine": {
            "python": platform.python_version(),
            "processor": platform.machine(),
            "threads": torch.get_num_threads(),
        },
    }
