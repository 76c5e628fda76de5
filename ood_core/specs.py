"""What was asked for, as frozen records of plain scalars; ranges are checked where they are built.

The records are the fields of the configuration file as well (`flows.settings`), so that there is
one definition of each. Digests of them name a run; see `RunIdentity`.
"""

import itertools
from dataclasses import dataclass
from typing import Literal, final

from ood_core.draw_spec import DrawSpec
from ood_core.errors import require, require_counts
from ood_core.limits import USUAL, Limits

Prediction = Literal["epsilon", "v_prediction", "sample"]
Symmetry = Literal["flip", "rotate90", "translate"]
TransformKind = Literal["linear", "log", "asinh"]
GaussianKind = Literal[
    "isotropic", "diagonal", "low_rank", "ledoit_wolf", "oas",
    "spectral", "spectral_low_rank", "spectral_factors",
]  # fmt: skip
PriorKind = Literal[GaussianKind, "mixture", "auto"]
SolverName = Literal["ddim", "heun", "dpmpp_2m", "ancestral", "dpmpp_2m_sde"]
InverterName = Literal["fixed_point", "bdia", "obelm"]
Coordinates = Literal["pixels", "posterior"]
Preset = Literal["calibrated", "discovery", "cluster"]


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class TargetsSpec:
    """Which files hold the targets, and how they are read and split.

    `path` is a FITS, `.npy`, `.npz` or Zarr path or a glob of them; `array` names the HDU, the
    `.npz` member or the Zarr array where there is a choice. `held_out` is a fraction in (0, 1) or a
    number of maps; the last maps in file order are held out, so that a file can order its maps by
    place and keep both splits apart in space. The last three are `Limits` on what is read.
    """

    path: str
    array: str | None = None
    transform: TransformKind = "linear"
    symmetries: tuple[Symmetry, ...] = ()
    held_out: float = 0.5
    max_bytes: int = USUAL.max_bytes
    max_maps: int = USUAL.max_maps
    max_header_bytes: int = USUAL.max_header_bytes

    def __post_init__(self) -> None:
        require("\0" not in self.path, "path: got a NUL character; correct the path")
        for name in ("max_bytes", "max_maps", "max_header_bytes"):
            require(getattr(self, name) >= 1, f"{name}: expected 1 or more")
        require(self.held_out > 0, f"held_out: got {self.held_out}; expected more than 0")
        require(
            self.held_out < 1 or float(self.held_out).is_integer(),
            f"held_out: got {self.held_out}; expected a fraction below 1 or a whole number of maps",
        )
        require(len(set(self.symmetries)) == len(self.symmetries), "symmetries: named twice")

    @property
    def limits(self) -> Limits:
        """Most that is read of the files."""
        return Limits(
            max_bytes=self.max_bytes,
            max_maps=self.max_maps,
            max_header_bytes=self.max_header_bytes,
        )

    def fit_count(self, maps: int) -> int:
        """Number of maps, counted from the first, that are fitted to; the others are held out."""
        held = self.held_out if self.held_out >= 1 else round(maps * self.held_out)
        return max(0, maps - int(held))


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSpec:
    """How experts and weights are fitted: noised copies per target, bands, ridge, clusters.

    `members` is the largest number of clusters, or `auto`, as many as left-out targets ask for.
    `patches` is the number of Gaussians in each mixture of patches; 0 leaves these experts out.
    `tolerance` is how much of a level's squared error may be given up for experts that then need
    not be asked there, the base before all others. `least_variance` is the least one of any
    direction of a patch, model range squared. `thinned` lays patches at every third of their side
    instead of every quarter, rounded to whole pixels.
    """

    draws: int = 3
    bands: int = 8
    ridge: float = 1e-3
    members: int | Literal["auto"] = 4
    patches: int = 24
    tolerance: float = 0.01
    least_variance: float = 1e-4
    thinned: bool = True

    def __post_init__(self) -> None:
        require(self.draws >= 1 and self.bands >= 2, "calibration: draws >= 1 and bands >= 2")
        require_counts(self, "draws", "bands", most=10**6)
        require(
            self.members == "auto" or 1 <= self.members <= 10**6,
            "calibration.members: expected auto, or 1 to 1,000,000",
        )
        require(self.ridge > 0, f"calibration.ridge: got {self.ridge}; expected more than 0")
        require(self.patches >= 0, "calibration.patches: expected 0 or more")
        require(self.least_variance > 0, "calibration.least_variance: expected more than 0")
        require(0 <= self.tolerance < 1, "calibration.tolerance: expected 0 to less than 1")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SteeringSpec:
    """Adam steps on the clean estimate at levels whose `sigma/alpha` lies in [`above`, `below`].

    In `pixels` every pixel moves alike, by `rate` at high noise. In `posterior` coordinates every
    Fourier mode moves by `rate` standard deviations that the targets' power leaves open at that
    noise level, so that no texture is written that the maps do not have. There, and not in pixels,
    steps begin at a random point, `start` such standard deviations from the estimate. `rings` is
    the number of rings about the centre whose means are steered too, where maps have a centre.
    `thinned` takes wavelet responses on coarser grids: other statistics at half of the cost.
    Gaps of the mean and of the power of the largest waves count `large_waves` times.
    """

    steps: int = 12
    rate: float = 0.3
    above: float = 0.0
    below: float = 4.0
    neighbours: int = 5
    coordinates: Coordinates = "posterior"
    rings: int = 7
    start: float = 0.3
    thinned: bool = True
    large_waves: float = 3.0

    def __post_init__(self) -> None:
        require_counts(self, "steps", "neighbours", most=10**6)
        require(self.steps >= 0 and self.rate > 0, "steering: steps >= 0 and rate > 0")
        require(0 <= self.above < self.below, "steering: expected 0 <= above < below")
        require(self.neighbours >= 1, "steering.neighbours: expected at least 1")
        require(self.rings >= 0, "steering.rings: expected 0 or more")
        require(0 <= self.start <= 10, "steering.start: expected 0 to 10 standard deviations")
        require(0 < self.large_waves <= 100, "steering.large_waves: expected above 0, up to 100")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class MethodSpec:
    """A preset, and what shall differ from it; a field left out takes the preset's value.

    `level` is the time index up to which targets are inverted (`auto`: chosen by measurement when
    the run is planned, `ood_core/synthesis/levels.py`), `floor` the one at which they start, and
    `steps` the number of solver steps between both. `inverter` goes up: by fixed point in
    `passes` passes, and up to `extra_passes` more where they leave much, or by a solver that keeps
    pairs. `eta` is the share of fresh noise of the `ddim` solver in steps that start above the
    index `eta_floor`. Above the index `teleport` (0: none) no step is taken, but the flow of a
    Gaussian in closed form. A target whose round trip errs by more than `round_trip_limit` (0:
    none) of its spread is left out of the prior's fit. `grid` names the indices themselves, rising,
    instead of `level`, `floor` and `steps`. On the way down one in `cache_interval` evaluations of
    the base is of the whole network, others of its finest level with the features of the last one.
    With `floor_noise` each target gets the noise that its first level stands for before it goes up.
    With `coarsening` samples are rounded as the targets are, and have the exact values that many of
    their pixels share at an end of the range (`ood_core/maps/quantization.py`).
    """

    preset: Preset = "calibrated"
    level: int | Literal["auto"] | None = None
    floor: int | None = None
    steps: int | None = None
    passes: int | None = None
    extra_passes: int | None = None
    inverter: InverterName | None = None
    solver: SolverName | None = None
    eta: float | None = None
    teleport: int | None = None
    round_trip_limit: float | None = None
    prior: PriorKind | None = None
    calibration: CalibrationSpec | None = None
    steering: SteeringSpec | None = None
    draw: DrawSpec | None = None
    eta_floor: int | None = None
    grid: tuple[int, ...] | None = None
    cache_interval: int | None = None
    floor_noise: bool | None = None
    coarsening: bool | None = None

    def __post_init__(self) -> None:
        measured = () if self.level == "auto" else ("level",)
        require_counts(self, *measured, "steps", "passes", "extra_passes", "teleport", most=10**6)
        require_counts(self, "cache_interval", most=10**6)
        for name in ("level", "steps", "passes", "cache_interval"):
            value = getattr(self, name)
            settled = value is None or value == "auto" or value >= 1
            require(settled, f"method.{name}: got {value}; expected 1 or more")
        for name in ("floor", "eta_floor", "extra_passes", "teleport", "round_trip_limit"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"method.{name}: got {value}; expected 0 or more")
        require(self.eta is None or 0 <= self.eta <= 1, "method.eta: expected 0 to 1")
        if self.grid is not None:
            self._require_grid(self.grid)
        if self.preset != "calibrated":
            require(
                self.calibration is None and self.steering is None,
                f"method: the {self.preset} preset has neither calibration nor steering; "
                "remove these keys or use the calibrated preset",
            )

    def _require_grid(self, grid: tuple[int, ...]) -> None:
        rising = all(0 <= low < high for low, high in itertools.pairwise(grid))
        require(
            len(grid) >= 2 and rising and grid[-1] <= 10**6,
            f"method.grid: got {list(grid)[:32]}; expected two or more rising time indices",
        )
        ends = ("floor", "steps") if self.teleport else ("level", "floor", "steps")
        both = [name for name in ends if getattr(self, name) is not None]
        require(not both, f"method.grid: got {', '.join(both)} as well, which it says; remove one")
        require(
            self.teleport in (None, 0, grid[-1]),
            f"method.grid: got an end at {grid[-1]} and a teleport from {self.teleport}; expected "
            "the same index",
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationSpec:
    """How many samples, in shards of how many (one unit of work each), from which seed."""

    samples: int = 1024
    shard_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.samples >= 1, f"generation.samples: got {self.samples}; expected 1 or more")
        require(self.shard_size >= 1, "generation.shard_size: expected 1 or more")
        require_counts(self, "samples")
        require_counts(self, "shard_size", most=10**6)
        require(0 <= self.seed < 2**63, "generation.seed: expected 0 <= seed < 2^63")
