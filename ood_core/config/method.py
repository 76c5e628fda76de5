"""The method in one record, as configured and as resolved.

`Method()` is the method of this project, `Method.of("discovery")` and `Method.of("cluster")` are
two published ones. What depends on the noise schedule of a base is None until `Method.resolve`.
The records are sections of the configuration file as well (`flows.settings`), so that each field
has one definition. A resolved method is part of a run's identity (`ood_core.config.identity`).
"""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, final

from ood_core.config.steer import SteerSpec
from ood_core.errors import require, require_counts

PriorKind = Literal["isotropic", "spectral_low_rank"]
SolverName = Literal["ddim", "ancestral"]
SamplerKind = Literal["prior", "slerp", "norm", "combination", "cluster"]
Preset = Literal["calibrated", "discovery", "cluster"]

STEPS = 12
AUTO_NOISE = 12.0
"""Noise-to-signal ratio at `t_max` where none is given."""
AUTO_MIN_NOISE = 0.02  # smooth maps have less at their smallest scales than 0.05 would leave
SHARE, PARENTS = 0.15, 3  # of draws that leave them open


class Schedule(Protocol):
    """What a method needs to know of the noise schedule of a base model."""

    def index_of(self, noise_to_signal: float) -> int:
        """Return the smallest time index with `sigma/alpha` at least the given value."""
        ...


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationSpec:
    """How the experts and their weights are fitted.

    Attributes:
        draws: most noised copies per target at each noise level; large maps need fewer.
        bands: bands of wavenumber, each with its own weights.
        ridge: penalty of the weights' regression, relative to the power of the maps in a band.
        n_clusters: largest number of clusters of targets.
        patches: Gaussians in each mixture of patches; 0 leaves these experts out.
        prune_tolerance: share of a noise level's squared error that may be given up so that an
            expert is not evaluated there; the base is the first to go.
        min_variance: least variance in any direction of a patch, in model range squared.
    """

    draws: int = 3
    bands: int = 8
    ridge: float = 1e-3
    n_clusters: int = 4
    patches: int = 24
    prune_tolerance: float = 0.01
    min_variance: float = 1e-4

    def __post_init__(self) -> None:
        require(self.draws >= 1 and self.bands >= 2, "calibration: draws >= 1 and bands >= 2")
        require_counts(self, "draws", "bands", "n_clusters", most=10**6)
        require(self.n_clusters >= 1, "calibration.n_clusters: expected 1 or more")
        require(self.ridge > 0, f"calibration.ridge: got {self.ridge}; expected more than 0")
        require(self.patches >= 0, "calibration.patches: expected 0 or more")
        require(self.min_variance > 0, "calibration.min_variance: expected more than 0")
        require(
            0 <= self.prune_tolerance < 1, "calibration.prune_tolerance: expected 0 to less than 1"
        )


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class SteeringSpec:
    """Adam steps on the clean estimate, at noise levels with `sigma/alpha` up to `sigma_max`.

    Every Fourier mode moves in units of the standard deviation that the targets' power leaves open
    at that noise level, so that no texture is written that the maps do not have.

    Attributes:
        steps: Adam steps per noise level; 0 switches steering off.
        rate: Adam's rate, in those standard deviations.
        sigma_max: largest `sigma/alpha` at which estimates are steered.
        neighbours: near targets between which aims are drawn, each with what is missed at another.
        radial_bins: rings about the centre whose means are steered too, where maps have a centre.
        low_k_weight: weight of the mean and of the power at the lowest wavenumbers; others have 1.
    """

    steps: int = 12
    rate: float = 0.3
    sigma_max: float = 4.0
    neighbours: int = 16
    radial_bins: int = 7
    low_k_weight: float = 3.0

    def __post_init__(self) -> None:
        require_counts(self, "steps", "neighbours", most=10**6)
        require(self.steps >= 0 and self.rate > 0, "steering: steps >= 0 and rate > 0")
        require(self.sigma_max > 0, "steering.sigma_max: expected more than 0")
        require(self.neighbours >= 1, "steering.neighbours: expected at least 1")
        require(self.radial_bins >= 0, "steering.radial_bins: expected 0 or more")
        require(0 < self.low_k_weight <= 100, "steering.low_k_weight: expected above 0, up to 100")


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class DrawSpec:
    """How a latent is drawn, and which intervals it must lie in to be decoded.

    `prior` draws from the fitted prior. `slerp` and `norm` go from the latent of a random fit
    target towards such a draw, by `share` of the way; `grid` takes one of the published 20 shares
    at random. `combination` adds `parents` latents with random weights that keep mean and variance.
    `cluster` draws a tangent at the Fréchet mean of the latents' directions.

    Attributes:
        sampler: how a latent is made.
        share: for slerp and norm, how far to go from the target's latent; None takes 0.15.
        parents: for combination, how many latents are added; None takes 3.
        accept: what the accepted intervals of radius, distance and angle are measured on: `draws`
            of the same sampler, or, as published, the `latents` of the targets themselves.
    """

    sampler: SamplerKind = "prior"
    share: float | Literal["grid"] | None = None
    parents: int | None = None
    accept: Literal["draws", "latents"] = "draws"

    def __post_init__(self) -> None:
        between, summed = self.sampler in ("slerp", "norm"), self.sampler == "combination"
        require(
            self.share is None or between,
            f"draw.share: got {self.share} for {self.sampler}; expected it for slerp or norm",
        )
        require(
            self.parents is None or summed,
            f"draw.parents: got {self.parents} for {self.sampler}; expected it for combination",
        )
        require(
            self.share in (None, "grid") or 0 < float(self.share) < 1,
            f"draw.share: got {self.share}; expected grid or a number between 0 and 1",
        )
        require(
            self.parents is None or 2 <= self.parents <= 10**6,
            f"draw.parents: got {self.parents}; expected at least 2",
        )

    @property
    def sources(self) -> int:
        """Number of latents that a draw is made of; 0 where it is of all of them alike."""
        return {"slerp": 1, "norm": 1, "combination": self.parents or PARENTS}.get(self.sampler, 0)

    def filled(self) -> "DrawSpec":
        """Return the spec with the defaults of its sampler filled in."""
        between, summed = self.sampler in ("slerp", "norm"), self.sampler == "combination"
        share = SHARE if between and self.share is None else self.share
        return replace(self, share=share, parents=self.sources if summed else None)


@final
@dataclass(frozen=True, kw_only=True, slots=True)
class Method:
    """How targets become latents and latents become samples.

    The defaults are the method of this project. Time indices count the base's own schedule, from
    data to noise.

    Attributes:
        t_max: time index up to which targets are inverted, the noisiest. None takes the index with
            `sigma/alpha` of 12; `auto` measures one when a run is planned
            (`ood_core.synthesis.timesteps`).
        t_min: time index at which inversion starts and decoding ends. None takes the index with
            `sigma/alpha` of 0.02.
        steps: solver steps between both.
        spacing: how time indices are spaced: even in the index, or in `ln(sigma/alpha)`.
        timesteps: the time indices themselves, rising; they say `t_max`, `t_min` and `steps`.
        fixed_point_iterations: evaluations with which inversion solves each step.
        solver: what decodes.
        eta: share of fresh noise of the `ddim` solver, 0 to 1.
        teleport: time index above which no step is taken, but the flow of a Gaussian in closed
            form; 0 switches it off.
        round_trip_limit: a target whose inverted and decoded map errs by more than this share of
            its standard deviation is left out of the prior's fit; 0 keeps all.
        prior: what is fitted to the latents.
        calibration: how experts are combined with the base; None uses the base alone.
        steering: how estimates are pulled towards statistics of targets; None does not.
        draw: how latents are drawn; None draws them from the prior.
        steer: what the user wishes of samples; None, nothing, and then it is no part of identities.
        pyramid: pixels a side that one pixel of a coarse map stands for, which is drawn first and
            which estimates are held to; 1 draws none, `auto` takes the largest divisor of both
            sides that leaves 32 px or more, if it is 4 or more and no plateaus are there.
        quantization: round samples as the targets are rounded, with the exact values that many of
            their pixels share at an end of the range (`ood_core.maps.quantization`).

    Raises:
        ConfigError: a value is impossible or contradicts another.
    """

    t_max: int | Literal["auto"] | None = None
    t_min: int | None = None
    steps: int = STEPS
    spacing: Literal["uniform", "log_snr"] = "log_snr"
    timesteps: tuple[int, ...] | None = None
    fixed_point_iterations: int = 2
    solver: SolverName = "ancestral"
    eta: float = 0.0
    teleport: int = 0
    round_trip_limit: float = 0.1  # real targets err by 0.01 to 0.03
    prior: PriorKind = "spectral_low_rank"
    calibration: CalibrationSpec | None = CalibrationSpec()
    steering: SteeringSpec | None = SteeringSpec()
    draw: DrawSpec | None = None
    quantization: bool = True
    pyramid: int | Literal["auto"] = "auto"
    steer: SteerSpec | None = None

    def __post_init__(self) -> None:
        if self.timesteps is not None:
            self._take_ends(self.timesteps)
        measured = () if self.t_max == "auto" else ("t_max",)
        counts = (*measured, "steps", "fixed_point_iterations")
        require_counts(self, *counts, "t_min", "teleport", most=10**6)
        for name in counts:
            value = getattr(self, name)
            require(value is None or value >= 1, f"method.{name}: got {value}; expected 1 or more")
        for name in ("t_min", "teleport", "round_trip_limit"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"method.{name}: got {value}; expected 0 or more")
        require(
            self.steer is None or (self.solver == "ancestral" and not self.teleport),
            f"method.steer: got the solver {self.solver} and teleport {self.teleport}; expected "
            "ancestral and 0, since it chooses among ways of fresh noise",
        )
        if self.pyramid != "auto":
            require_counts(self, "pyramid", most=10**6)
            require(self.pyramid >= 1, f"method.pyramid: got {self.pyramid}; expected 1 or more")
        require(0 <= self.eta <= 1, "method.eta: expected 0 to 1")
        require(
            self.eta == 0 or self.solver == "ddim",
            f"method.eta: got {self.eta} with the solver {self.solver}; only ddim takes one",
        )

    @classmethod
    def of(cls, preset: Preset, **changes: Any) -> "Method":
        """Return a preset with some fields changed.

        `discovery` has the published noise level, number of points and prior of Zhu et al. (2023)
        with one evaluation per inversion step. `cluster` is the same with other draws: our
        reconstruction of Ramachandran et al. (2024), whose formulas are not known.

        Raises:
            ConfigError: no such preset, or no such field to change.
        """
        return cls(**of_preset({"preset": preset, **changes}))

    @property
    def ends(self) -> tuple[int, int]:
        """Time indices `(t_min, t_max)`.

        Raises:
            ValueError: the method is not resolved.
        """
        if self.t_min is None or not isinstance(self.t_max, int):
            raise ValueError(f"got t_min {self.t_min}, t_max {self.t_max}; call resolve first")
        return self.t_min, self.t_max

    @property
    def factor(self) -> int:
        """Pixels a side that one pixel of a coarse map stands for; 1 where none is drawn.

        Raises:
            ValueError: that depends on maps.
        """
        if self.pyramid == "auto":
            raise ValueError("got pyramid auto; call with_pyramid first")
        return self.pyramid

    @property
    def candidates(self) -> int:
        """Ways down, or ways to go on at every step, that are tried for a sample; 1 without wishes.

        `steer` goes with the ancestral solver, which evaluates once per index.
        """
        coarse = self.steps + 1 if self.factor > 1 else 0
        return 1 if self.steer is None else self.steer.candidates(self.steps, coarse)

    @property
    def top(self) -> int:
        """Time index of the noisiest solver step: `teleport`, or `t_max`."""
        return self.teleport or self.ends[1]

    def resolve(self, schedule: Schedule) -> "Method":
        """Return the method with nothing left open, for a base with this noise schedule.

        Raises:
            ConfigError: more steps than time indices, or a teleport from above `t_max`.
            ValueError: `t_max` is to be measured and was not.
        """
        if self.t_max == "auto":
            raise ValueError("got t_max auto; expected an index that was measured")
        t_max = schedule.index_of(AUTO_NOISE) if self.t_max is None else self.t_max
        room = (self.teleport or t_max) - self.steps
        lowest = max(0, min(schedule.index_of(AUTO_MIN_NOISE), room))
        steered = self.steering is not None and self.steering.steps > 0
        drawn = self.draw is not None and self.draw != DrawSpec()
        found = replace(
            self,
            t_max=t_max,
            t_min=lowest if self.t_min is None else self.t_min,
            steering=self.steering if steered else None,
            draw=self.draw.filled() if self.draw is not None and drawn else None,
        )
        t_min, t_max = found.ends
        if found.steer is not None:
            least = found.steps + 1
            require(
                found.steer.calls >= least,
                f"method.steer.calls: got {found.steer.calls}; expected {least} or more",
            )
        require(
            found.steps <= found.top - t_min,
            f"method.steps: got {found.steps} steps from index {t_min} up to {found.top}; "
            "expected at most one step per index",
        )
        require(
            found.top <= t_max,
            f"method.teleport: got index {found.teleport}; expected at most t_max, {t_max}",
        )
        return found

    def _take_ends(self, timesteps: tuple[int, ...]) -> None:
        """Set what the time indices say; a field that says otherwise is refused."""
        rising = all(0 <= low < high for low, high in itertools.pairwise(timesteps))
        require(
            len(timesteps) >= 2 and rising and timesteps[-1] <= 10**6,
            f"method.timesteps: got {list(timesteps)[:32]}; expected two or more rising indices",
        )
        require(
            self.teleport in (0, timesteps[-1]),
            f"method.timesteps: got an end at {timesteps[-1]} and a teleport from {self.teleport}; "
            "expected the same index",
        )
        said = {"t_min": timesteps[0], "steps": len(timesteps) - 1}
        if not self.teleport:
            said["t_max"] = timesteps[-1]
        for name, value in said.items():
            given = getattr(self, name)
            require(
                given in (None, value) or (name, given) == ("steps", STEPS),
                f"method.timesteps: got {name} {given} as well, but they say {value}; leave it out",
            )
            object.__setattr__(self, name, value)


PUBLISHED: dict[str, Any] = {
    "t_max": 900,
    "t_min": 0,
    "steps": 79,
    "spacing": "uniform",
    "fixed_point_iterations": 1,
    "solver": "ddim",
    "round_trip_limit": 0.0,
    "prior": "isotropic",
    "calibration": None,
    "steering": None,
    "quantization": False,
    "pyramid": 1,
}
PRESETS: dict[str, dict[str, Any]] = {
    "calibrated": {},
    "discovery": PUBLISHED,
    "cluster": {**PUBLISHED, "draw": DrawSpec(sampler="cluster")},
}
"""Fields in which each preset differs from `Method()`."""
CAN_BE_NONE = ("t_max", "t_min", "timesteps", "calibration", "steering", "draw", "steer")


def of_preset(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return all fields that a configuration's `method` section sets, its preset's included.

    The key `preset` names a row of `PRESETS`. A key without a value counts as left out, unless
    None is a value of that field.

    Raises:
        ConfigError: no such preset, or keys that contradict it or one another.
    """
    said = {k: v for k, v in section.items() if v is not None or k in CAN_BE_NONE}
    name = said.pop("preset", "calibrated")
    require(name in PRESETS, f"method.preset: got {name!r}; expected one of {', '.join(PRESETS)}")
    require(
        name == "calibrated" or said.get("calibration") is said.get("steering") is None,
        f"method: the {name} preset has neither calibration nor steering; "
        "remove these keys or use the calibrated preset",
    )
    own = dict(PRESETS[name])
    if isinstance(timesteps := said.get("timesteps"), list | tuple):
        require(
            said.get("steps") in (None, len(timesteps) - 1),
            f"method.timesteps: got steps {said.get('steps')} as well, but they say "
            f"{len(timesteps) - 1}; leave it out",
        )
        decided = ("t_min", "steps") if said.get("teleport") else ("t_max", "t_min", "steps")
        own = {k: v for k, v in own.items() if k not in decided}
    return own | said
