"""`t_max: auto`: measured once when a run is planned, and read back ever after.

The number is part of the method that names the run. Measured on another machine the curve differs
by rounding, so a planned run keeps the number that it has.
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
"""Fit targets, and held-out ones, that are inverted: the curve is to cost seconds."""
RULE = "lowest one explained to 0.995, at no more than twice the least error, separability 0.95"
ROOT = root_key("choice of the level")


@final
@dataclass(frozen=True, slots=True)
class LevelChoice:
    """The chosen time index and the measured curve, as `run.json` keeps them."""

    t_max: int
    rule: str
    targets: str
    base: str
    curve: tuple[dict[str, float], ...]


def settle_level(
    settings: RunSettings, targets: TargetSet, model: BaseModel, t_min: int, run: RunStore | None
) -> LevelChoice | None:
    """Choose `t_max` where the settings say `auto`; None where they do not."""
    if settings.method.t_max != "auto":
        return None
    stored = _stored(run, targets, model)
    return stored or _measured(targets, model, t_min)


def with_level(method: Method, choice: LevelChoice | None) -> Method:
    """The method with the chosen `t_max`."""
    return method if choice is None else replace(method, t_max=choice.t_max)


def _stored(run: RunStore | None, targets: TargetSet, model: BaseModel) -> LevelChoice | None:
    """The choice of a planned run of the same targets and base."""
    found = run.record.get("timestep_choice") if run is not None and run.exists else None
    if found is None or (found["targets"], found["base"]) != (targets.digest(), model.digest):
        return None
    return LevelChoice(**{**found, "curve": tuple(found["curve"])})


def _measured(targets: TargetSet, model: BaseModel, t_min: int) -> LevelChoice:
    fit = targets.fit_count
    chosen = [*range(min(fit, MAPS)), *range(fit, min(len(targets), fit + MAPS))]
    seen = targets.model_range[chosen]
    seen = seen if model.codes is None else model.codes.encode(seen)
    base, split = model.denoiser, min(fit, MAPS)
    candidates = log_timesteps(base.schedule, MIN_RATIO, MAX_RATIO, CANDIDATES)
    curve = timestep_curve(base, seen[:split], seen[split:], candidates, t_min, ROOT)
    points = tuple(asdict(point) for point in curve)
    return LevelChoice(choose(curve).index, RULE, targets.digest(), model.digest, points)


def recorded(choice: LevelChoice | None) -> dict[str, Any]:
    """What `run.json` says of the choice; nothing where there was none."""
    return {} if choice is None else {"timestep_choice": asdict(choice)}
