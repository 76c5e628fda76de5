"""A method with nothing left open: what a preset means, and what was asked for on top."""

from dataclasses import dataclass, fields, replace
from typing import Literal, final

from ood_core.draw_spec import DrawSpec
from ood_core.errors import require
from ood_core.specs import (
    CalibrationSpec,
    InverterName,
    MethodSpec,
    PriorKind,
    SolverName,
    SteeringSpec,
)

CALIBRATED_STEPS = 12
ROUND_TRIP_LIMIT = 0.1  # of a target's own standard deviation; real ones err by 0.01 to 0.03


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """A method with nothing left open; `calibration` and `steering` are None where not used.

    Without `draw`, latents are drawn from the prior, and accepted where such draws lie.
    Fields with a value came later; it is what runs did before (`LATER` in `identity.py`).
    """

    level: int
    floor: int
    steps: int
    spacing: Literal["uniform", "log_snr"]
    passes: int
    solver: SolverName
    prior: PriorKind
    calibration: CalibrationSpec | None
    steering: SteeringSpec | None
    draw: DrawSpec | None = None
    eta_floor: int = 0
    extra_passes: int = 0
    inverter: InverterName = "fixed_point"
    eta: float = 0.0
    teleport: int = 0
    round_trip_limit: float = 0.0
    grid: tuple[int, ...] | None = None
    cache_interval: int = 1
    floor_noise: bool = False
    coarsening: bool = False

    @property
    def top(self) -> int:
        """Index at which the grid of steps ends."""
        return self.teleport or self.level


def resolve_method(spec: MethodSpec, auto_level: int, auto_floor: int = 0) -> Method:
    """Fill what the spec leaves open from its preset.

    `auto_level` and `auto_floor` are the ends of the calibrated preset where none is given. The
    `discovery` preset has the published level, number of points and prior (Zhu et al. 2023: 900,
    80, isotropic Gaussian) with one evaluation per inversion step; interpolations and filters are
    those of `draw`. `cluster` is the same with other draws: our reconstruction of Ramachandran et
    al. (2024), whose formulas are not known.
    """
    grid, spec = spec.grid, _with_ends(spec)
    if spec.level == "auto":
        raise ValueError("got level auto; expected a level that was measured")
    if spec.preset != "calibrated":
        open_fields = Method(
            level=900, floor=0, steps=79, spacing="uniform", passes=1, solver="ddim",
            prior="isotropic", calibration=None, steering=None,
            draw=DrawSpec(construct="cluster") if spec.preset == "cluster" else None,
        )  # fmt: skip
    else:
        room = (spec.teleport or spec.level or auto_level) - (spec.steps or CALIBRATED_STEPS)
        open_fields = Method(
            level=auto_level, floor=max(0, min(auto_floor, room)), steps=CALIBRATED_STEPS,
            spacing="log_snr", passes=2, solver="ancestral", prior="spectral_low_rank",
            calibration=CalibrationSpec(), steering=SteeringSpec(),
            round_trip_limit=ROUND_TRIP_LIMIT, coarsening=True,
        )  # fmt: skip
    given = {
        f.name: getattr(spec, f.name)
        for f in fields(MethodSpec)
        if f.name != "preset" and getattr(spec, f.name) is not None
    }
    method = replace(open_fields, **given, grid=grid)
    if method.steering is not None and method.steering.steps == 0:
        method = replace(method, steering=None)
    if (draw := method.draw) is not None:  # the default of all fields is that of runs without it
        method = replace(method, draw=None if draw == DrawSpec() else draw.filled())
    require(
        method.steps <= method.top - method.floor,
        f"method.steps: got {method.steps} steps from index {method.floor} up to {method.top}; "
        "expected at most one step per index",
    )
    require(
        method.top <= method.level,
        f"method.teleport: got index {method.teleport}; expected at most the level, {method.level}",
    )
    require(
        method.eta == 0 or method.solver == "ddim",
        f"method.eta: got {method.eta} with the solver {method.solver}; only ddim takes one",
    )
    return method


def _with_ends(spec: MethodSpec) -> MethodSpec:
    """The same with what its grid of indices says of level, floor and steps in the grid's place."""
    if (grid := spec.grid) is None:
        return spec
    level = spec.level if spec.teleport else grid[-1]
    return replace(spec, grid=None, level=level, floor=grid[0], steps=len(grid) - 1)
