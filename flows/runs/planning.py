"""From settings to a planned run: everything is checked before anything is written."""

import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, final

import torch

from actors.loading import require_fit
from flows.runs.timestep_choice import TimestepChoice, choose_timestep, recorded, with_timestep
from flows.settings import RunSettings
from ood_core.arrays import Maps
from ood_core.config.identity import difference, identity_record, method_record
from ood_core.config.method import AUTO_MIN_NOISE, Method
from ood_core.diffusion.sampling import evaluations_per_target
from ood_core.errors import IdentityRefused, InputError
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel, load_model
from ood_core.store.arrays import Column, Table, persist_tables
from ood_core.store.files import exists, remove, remove_tree, sweep
from ood_core.store.place import Place
from ood_core.store.plan import ShardPlan
from ood_core.store.run import (
    COARSE,
    DOMAIN,
    GATE,
    PATCHES,
    PRIOR,
    SERIES,
    UTILITY,
    WISHES,
    RunStore,
    settle,
    version_at,
)
from ood_core.store.schema import (
    SHARDED,
    ShardedStage,
    calibration_columns,
    calibration_parts,
    latent_columns,
    sample_columns,
)
from ood_core.store.series import FRAME, Growth, copy_frame, growth, newest
from ood_core.store.statistics import create_statistics, feature_extractor
from ood_core.store.targets import load_targets, write_targets
from ood_core.synthesis.latent_samplers import require_parents
from ood_core.synthesis.pipeline import (
    ExpertPlan,
    coarse_method,
    require_stack,
    time_grid,
    with_pyramid,
)
from ood_core.synthesis.preference import sample_evaluations, sealed

INVERSION_SHARD = 16
OF_FILES = ("path", "max_bytes", "max_maps", "max_header_bytes")
PACKAGES = ("farfield", "torch", "diffusers", "numpy", "zarr", "ray", "prefect", "astropy")


@final
@dataclass(frozen=True, slots=True, eq=False)
class RunPlan:
    """What a run will be: checked inputs, identity and shard plans; nothing is written yet."""

    run: RunStore
    settings: RunSettings
    targets: TargetSet
    model: BaseModel
    method: Method
    record: dict[str, Any]
    plans: dict[ShardedStage, ShardPlan]
    dtype: str
    choice: TimestepChoice | None = None
    growth: Growth | None = None

    @property
    def is_new(self) -> bool:
        """Whether there is no run at the place yet.

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


def plan_run(settings: RunSettings, out: str) -> RunPlan:
    """Check settings, targets, base and place.

    Raises:
        InputError: unusable targets, base or settings.
        IdentityRefused: another run lives at `out`.
    """
    run, grown = RunStore.at(out), None
    targets = TargetSet.of(settings.targets)
    if settings.targets.grow:
        run, grown = _version(settings, targets, run.root)
    elif exists(run.root / SERIES):
        raise InputError(
            f"{run.root} holds versions of a data set; expected targets.grow: true, or another "
            "--out"
        )
    framed = grown is not None and grown.frame != ""
    frame = None
    if grown is not None and framed:  # its own, once it is planned
        frame = run if run.exists else RunStore(run.root.parent / grown.version)
        targets = targets.framed(load_targets(frame))
    model, method, choice = _inspected(settings, targets, run, frame)
    seed = settings.generation.seed
    read = targets.record()
    if grown is not None and framed:
        read["frame"] = grown.frame
    record = identity_record(read, model.digest, method, seed)
    plans = shard_plans(settings, method, targets.fit_count)
    dtype = settings.execution.number_type
    planned = RunPlan(run, settings, targets, model, method, record, plans, dtype, choice, grown)
    _ = planned.is_new
    return planned


def _version(
    settings: RunSettings, targets: TargetSet, series: Place
) -> tuple[RunStore, Growth | None]:
    """The version of a series that has these very targets: the newest, or the next one.

    Raises:
        InputError: the place holds a single run, or targets that cannot be used.
        IdentityRefused: the newest version was made with other settings.
    """
    number = newest(series)
    if number == 0:
        return version_at(series, 1), None
    before = version_at(series, number)
    found = growth(before, targets)
    if found is None:
        told = before.record.get("grown_from")
        return before, told and Growth(**{k: _tuple(value) for k, value in told.items()})
    stored, asked = (
        _lasting(one) for one in (before.record["settings"], settings.model_dump(mode="json"))
    )
    if lines := difference(stored, asked):
        raise IdentityRefused(
            f"{before.root}: these settings differ from those of the newest version (stored -> "
            "requested):\n  " + "\n  ".join(lines) + "\nGive another --out, or restore them"
        )
    return version_at(series, number + 1), found


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _lasting(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What all versions of a data set share."""
    targets = {k: v for k, v in settings["targets"].items() if k not in OF_FILES}
    seed = settings["generation"]["seed"]
    method = {k: v for k, v in settings["method"].items() if (k, v) != ("steer", None)}
    return {"targets": targets, "method": method, "generation": {"seed": seed}}


def inspect_inputs(settings: RunSettings) -> tuple[TargetSet, BaseModel, Method]:
    """Read and check targets and base, and resolve the method."""
    targets = TargetSet.of(settings.targets)
    return targets, *_inspected(settings, targets, None)[:2]


def _inspected(
    settings: RunSettings, targets: TargetSet, run: RunStore | None, frame: RunStore | None = None
) -> tuple[BaseModel, Method, TimestepChoice | None]:
    """Base and method for targets, and how `t_max` was chosen where that was left to measurement.

    `frame` is an earlier version whose `t_max` is kept.
    """
    model = load_model(settings.base, max_bytes=settings.execution.max_base_bytes)
    model.check(targets)
    require_stack(model, settings.method)
    schedule = model.denoiser.schedule
    t_min = schedule.index_of(AUTO_MIN_NOISE)
    choice = choose_timestep(settings, targets, model, t_min, run, frame)
    method = sealed(with_timestep(settings.method, choice).resolve(schedule))
    method = with_pyramid(method, model, targets)
    require_fit(settings.base, method.ends[1], schedule)
    if method.draw is not None and method.draw.sampler == "combination":
        require_parents(method.draw.sources, targets.fit_count)
    return model, method, choice


Content = tuple[list[Column], dict[str, Any]]


@final
@dataclass(frozen=True, slots=True)
class Work:
    """What is planned for a sharded stage.

    Attributes:
        plan: its shards, from settings, method and the number of fit targets.
        evaluations: network evaluations of a plan, as its receipts will count them.
        content: columns and attributes of its table, from the run and its encoded targets.
    """

    plan: Callable[[RunSettings, Method, int], ShardPlan]
    evaluations: Callable[[ShardPlan, Method, int], int]
    content: Callable[[RunPlan, TargetSet], Content]


def _calibrations(settings: RunSettings, method: Method, fit: int) -> ShardPlan:
    return ShardPlan(method.steps + 1 if method.calibration is not None else 0, 1)


def _calibration_evaluations(plan: ShardPlan, method: Method, fit: int) -> int:
    return plan.rows * fit * method.calibration.draws if method.calibration is not None else 0


def _calibration_content(planned: RunPlan, targets: TargetSet) -> Content:
    spec = planned.method.calibration
    assert spec is not None, "else there are no shards"
    fitted = ExpertPlan.of(
        targets.fit_seen, targets.symmetries, spec, len(planned.model.each)
    ).as_dict()
    schedule = planned.model.denoiser.schedule
    timesteps = time_grid(schedule, planned.method).tolist()
    ratios = [schedule.noise_to_signal(t) for t in timesteps]
    rows = {"timesteps": timesteps, "noise_to_signal": ratios}
    size = spec.bands, len(fitted["experts"])
    layout = [[name, list(shape)] for name, shape in calibration_parts(*size).items()]
    return calibration_columns(*size), {**fitted, **rows, "layout": layout}


def _inversions(settings: RunSettings, method: Method, fit: int) -> ShardPlan:
    return ShardPlan(fit, min(INVERSION_SHARD, fit))


def _inversion_evaluations(plan: ShardPlan, method: Method, fit: int) -> int:
    return plan.computed * evaluations_per_target(method.steps, method.fixed_point_iterations)


def _inversion_content(planned: RunPlan, targets: TargetSet) -> Content:
    shape = targets.shape
    return latent_columns(shape, planned.model.code_shape(shape)), _attributes(planned)


def _samples(settings: RunSettings, method: Method, fit: int) -> ShardPlan:
    return ShardPlan(settings.generation.samples, settings.generation.shard_size)


def _sample_evaluations(plan: ShardPlan, method: Method, fit: int) -> int:
    return plan.computed * sample_evaluations(method)


def _sample_content(planned: RunPlan, targets: TargetSet) -> Content:
    sources = 0 if planned.method.draw is None else planned.method.draw.sources
    columns = sample_columns(targets.shape, targets.unit, sources)
    return columns, {**_attributes(planned), "synthetic": True, "left_out": []}


def _attributes(planned: RunPlan) -> dict[str, Any]:
    return {"title": planned.settings.name, "source": "Farfield"}


WORK: dict[ShardedStage, Work] = {
    "calibrate": Work(_calibrations, _calibration_evaluations, _calibration_content),
    "invert": Work(_inversions, _inversion_evaluations, _inversion_content),
    "generate": Work(_samples, _sample_evaluations, _sample_content),
}
"""Every sharded stage: a shard is one timestep, a batch of targets, or a batch of samples."""


def shard_plans(settings: RunSettings, method: Method, fit: int) -> dict[ShardedStage, ShardPlan]:
    """Units of work per stage."""
    return {stage: work.plan(settings, method, fit) for stage, work in WORK.items()}


def _coarse(planned: RunPlan) -> RunPlan:
    """The plan of what is fitted to coarse targets: a run without samples."""
    method = coarse_method(planned.method)
    targets = planned.targets.coarsened(planned.method.factor)
    seed = planned.settings.generation.seed
    record = identity_record(targets.record(), planned.model.digest, method, seed)
    plans = {**planned.plans, "generate": ShardPlan(0, 1)}
    return replace(
        planned, run=planned.run.coarse, targets=targets, method=method, record=record, plans=plans,
        choice=None, growth=None,
    )  # fmt: skip


def _write(planned: RunPlan) -> None:
    """Create all tables, then the plan, then `run.json`, which makes the run exist."""
    run, settings, plans, method = planned.run, planned.settings, planned.plans, planned.method
    # What lies there was of another run.
    for name in (GATE, UTILITY, WISHES, PATCHES, PRIOR, DOMAIN):
        remove(run.root / name)
    for name in ("receipts", "segments", "failures", "walks", FRAME, COARSE):
        remove_tree(run.root / name)
    if method.factor > 1:
        _write(_coarse(planned))
    codes = planned.model.codes
    targets = planned.targets.encoded(codes and codes.encode)
    write_targets(run, targets)
    framed = planned.growth is not None and planned.growth.frame != ""
    if planned.growth is not None and framed:
        copy_frame(RunStore(run.root.parent / planned.growth.version), run)
    for stage, work in WORK.items():
        if (plan := plans[stage]) and not (framed and stage == "calibrate"):
            columns, attributes = work.content(planned, targets)
            axis = SHARDED[stage].axis
            Table.create(
                run.table(stage).path, axis, plan.rows, plan.shard_rows, columns, attributes
            )
    kept = _record(settings, planned.model, method, targets.fit_ranged) | recorded(planned.choice)
    if planned.growth is not None:
        kept["grown_from"] = asdict(planned.growth)
    if samples := plans["generate"]:
        create_statistics(run, feature_extractor(targets), samples)
    persist_tables(run.root)
    run.write_plan(planned.record, kept, plans, planned.dtype)


def _record(settings: RunSettings, model: BaseModel, method: Method, fit: Maps) -> dict[str, Any]:
    return {
        "name": settings.name,
        "settings": settings.model_dump(mode="json"),
        "method": method_record(method),
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
