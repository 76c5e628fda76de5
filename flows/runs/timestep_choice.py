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
"""Fit targets, and as many others of them, that are inverted, so that the curve costs seconds.

The base is fitted to none of them. Held-out maps, which judge what is chosen, choose nothing."""
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
    settings: RunSettings,
    targets: TargetSet,
    model: BaseModel,
    t_min: int,
    run: RunStore | None,
    frame: RunStore | None = None,
) -> TimestepChoice | None:
    """Choose `t_max` where the settings say `auto`; None where they do not.

    `frame` is an earlier version whose choice is kept.
    """
    if settings.method.t_max != "auto":
        return None
    stored = _stored(run, targets, model) if frame is None else _of(frame)
    return stored or _measured(targets, model, t_min)


def with_timestep(method: Method, choice: TimestepChoice | None) -> Method:
    """The method with the chosen `t_max`."""
    return method if choice is None else replace(method, t_max=choice.t_max)


def _of(run: RunStore) -> TimestepChoice | None:
    """The choice that is stored in a run."""
    found = run.record.get("timestep_choice")
    return found and TimestepChoice(**{**found, "curve": tuple(found["curve"])})


def _stored(run: RunStore | None, targets: TargetSet, model: BaseModel) -> TimestepChoice | None:
    """The choice of a planned run of the same targets and base."""
    found = _of(run) if run is not None and run.exists else None
    same = found is not None and (found.targets, found.base) == (targets.digest(), model.digest)
    return found if same else None


def _measured(targets: TargetSet, model: BaseModel, t_min: int) -> TimestepChoice:
    seen = targets.fit_ranged[: 2 * MAPS]
    seen = seen if model.codes is None else model.codes.encode(seen)
    base, split = model.denoiser, -(-len(seen) // 2)
    candidates = log_timesteps(base.schedule, MIN_RATIO, MAX_RATIO, CANDIDATES)
    curve = timestep_curve(base, seen[:split], seen[split:], candidates, t_min, ROOT)
    points = tuple(asdict(point) for point in curve)
    return TimestepChoice(choose(curve).index, RULE, targets.digest(), model.digest, points)


def recorded(choice: TimestepChoice | None) -> dict[str, Any]:
    """What `run.json` says of the choice; nothing where there was none."""
    return {} if choice is None else {"timestep_choice": asdict(choice)}
