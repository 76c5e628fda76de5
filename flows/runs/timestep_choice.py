"""`t_max: auto`: measured once when a run is planned, and read back ever after.

The time index is part of the method, and so of the run's identity. Measured on another machine the
curve differs by rounding, so a run that is planned keeps the index that it has.
"""

from dataclasses import asdict, dataclass, replace
from typing import Any, final

from flows.settings import RunSettings
from ood_core.config.method import Method
from ood_core.maps.target_set import TargetSet
from ood_core.models.loading import BaseModel
from ood_core.numerics.random import root_key
from ood_core.store.run import RunStore
from ood_core.synthesis.timesteps import choose, log_timesteps, timestep_curve

MIN_RATIO, MAX_RATIO, CANDIDATES = 1.5, 24.0, 6
MAPS = 8
"""Fit targets, and as many held-out ones, that are inverted, so that the curve costs seconds."""
RULE = "lowest one explained to 0.995, at no more than twice the least error, separability 0.95"
ROOT = root_key("choice of the level")


@final
@dataclass(frozen=True, slots=True)
class TimestepChoice:
    """The chosen time index and the measured curve, as `run.json` keeps them."""

    t_max: int
    rule: str
    targets: str
    base: str
    curve: tuple[dict[str, float], ...]


def choose_timestep(
    settings: RunSettings, targets: TargetSet, model: BaseModel, t_min: int, run: RunStore | None
) -> TimestepChoice | None:
    """Choose `t_max` where the settings say `auto`; None where they do not."""
    if settings.method.t_max != "auto":
        return None
    stored = _stored(run, targets, model)
    return stored or _measured(targets, model, t_min)


def with_timestep(method: Method, choice: TimestepChoice | None) -> Method:
    """The method with the chosen `t_max`."""
    return method if choice is None else replace(method, t_max=choice.t_max)


def _stored(run: RunStore | None, targets: TargetSet, model: BaseModel) -> TimestepChoice | None:
    """The choice of a planned run of the same targets and base."""
    found = run.record.get("timestep_choice") if run is not None and run.exists else None
    if found is None or (found["targets"], found["base"]) != (targets.digest(), model.digest):
        return None
    return TimestepChoice(**{**found, "curve": tuple(found["curve"])})


def _measured(targets: TargetSet, model: BaseModel, t_min: int) -> TimestepChoice:
    fit = targets.fit_count
    chosen = [*range(min(fit, MAPS)), *range(fit, min(len(targets), fit + MAPS))]
    seen = targets.model_range[chosen]
    seen = seen if model.codes is None else model.codes.encode(seen)
    base, split = model.denoiser, min(fit, MAPS)
    candidates = log_timesteps(base.schedule, MIN_RATIO, MAX_RATIO, CANDIDATES)
    curve = timestep_curve(base, seen[:split], seen[split:], candidates, t_min, ROOT)
    points = tuple(asdict(point) for point in curve)
    return TimestepChoice(choose(curve).index, RULE, targets.digest(), model.digest, points)


def recorded(choice: TimestepChoice | None) -> dict[str, Any]:
    """What `run.json` says of the choice; nothing where there was none."""
    return {} if choice is None else {"timestep_choice": asdict(choice)}
