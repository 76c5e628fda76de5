"""From targets to samples, as pure functions of a base, targets, a method and a root key.

    calibrate   weights of the experts, one timestep at a time
    invert      fit targets to latents, with round trips as a check
    draw        a latent per sample, from the fitted prior
    decode      latents to maps, each pulled towards statistics of the targets

Everything here lives in memory; the last two are in `sampler.py`. `Synthesizer` does it in one
process, workers one shard after another; both use these functions, so there is one way to make a
sample.
"""

import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid, on_device, row_major
from ood_core.config.method import CalibrationSpec, Method, SteeringSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.calibrated import (
    EXPERTS,
    PATCHES,
    BandWeights,
    CalibratedDenoiser,
    Labels,
    Show,
    TargetExperts,
    calibrate_timestep,
    further_names,
    halves,
)
from ood_core.denoising.completed import Comparison, LeftOpen
from ood_core.denoising.gate import Gate
from ood_core.denoising.hats import band_knots
from ood_core.denoising.plateaus import Plateaus
from ood_core.denoising.statistics import Statistics, Taper
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.patches import PatchMixture
from ood_core.diffusion.sampling import Inversion, decode, held, invert
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import CountingDenoiser
from ood_core.diffusion.teleport import Shortcut, Teleport
from ood_core.errors import ConfigError
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.moments import Norms, norms
from ood_core.estimators.patches import fit_patches_of, patch_shapes
from ood_core.estimators.prior import fit_gaussian
from ood_core.maps.quantization import Quantization
from ood_core.maps.target_set import MIN_SIDE, TargetSet
from ood_core.models.autoencoder import Autoencoder
from ood_core.models.loading import BaseModel
from ood_core.numerics.memory import MicroBatches
from ood_core.numerics.random import SeedRange, root_key
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.latents import ShellGeometry, measure_geometry
from ood_core.synthesis.timesteps import base_gaussian

GAUSSIAN_WHITE = 1.0
"""`sigma/alpha` at which the covariance of the Gaussian expert is chosen: there it matters most."""
COARSE_SIDE = 32  # px: patches and statistics reach over most of it
LEAST_FACTOR = 4
"""Of 64 px maps coarse ones made no better ones (docs/sizes.md)."""
GAUSSIAN_ROOT = root_key("affine law of a base")
PatchMixtures = tuple[PatchMixture, ...]
Calibrated = tuple[Float[Tensor, "bands experts"], Gate, LeftOpen]
Each = Callable[[Sequence[Any]], Iterable[Any]]
"""Goes through pieces of work, and may show how far it is."""


@final
@dataclass(frozen=True, slots=True)
class ExpertPlan:
    """Names of the experts and the bands of their weights, known before any is fitted.

    `knots` are band centres in cycles per pixel; `rho` is the stationary share of the Gaussian's
    covariance and `n_clusters` the largest number of its clusters.
    """

    experts: tuple[str, ...]
    knots: tuple[float, ...]
    rho: float
    n_clusters: int

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, to be kept beside the weights."""
        return {
            "experts": list(self.experts),
            "knots": list(self.knots),
            "rho": self.rho,
            "n_clusters": self.n_clusters,
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> "ExpertPlan":
        """Read what `as_dict` wrote."""
        experts, knots = tuple(kept["experts"]), tuple(kept["knots"])
        return cls(experts, knots, float(kept["rho"]), int(kept["n_clusters"]))

    @classmethod
    def of(
        cls, seen: Maps, symmetries: Sequence[Symmetry], spec: CalibrationSpec, bases: int = 1
    ) -> "ExpertPlan":
        """Measure on the fit targets as the denoiser sees them, `(n, c, y, x)`."""
        shapes = patch_shapes(*seen.shape[1:]) if spec.patches else []
        local = [f"{PATCHES}{side}x{side}, scale {scale}" for side, scale in shapes]
        knots = band_knots(seen.shape[-2], seen.shape[-1], spec.bands).tolist()
        rho = fit_gaussian(seen, "spectral_low_rank", symmetries, GAUSSIAN_WHITE).rho
        return cls((*EXPERTS, *further_names(bases), *local), tuple(knots), rho, spec.n_clusters)


@final
@dataclass(frozen=True, eq=False)
class Pipeline:
    """What stays the same from shard to shard: base, targets, method and the denoiser of them.

    `base` counts the evaluations of `network`, which may be a wrapped one. `experts` and `weights`
    belong to the calibrated denoiser; `weights` is None before calibration. `codes` is the
    autoencoder of a latent base, whose denoiser works on codes of maps. `shortcut` leads from the
    top of the grid to the time index of the latents where the method teleports. `show` gives what
    the base makes of a few maps, chosen by the root. `memory` cuts batches into what fits.
    `coarse` is the pipeline of coarse targets, where samples are held to coarse maps; it counts
    evaluations together with this one.
    """

    base: CountingDenoiser
    network: Denoiser
    codes: Autoencoder | None
    targets: TargetSet
    method: Method
    timesteps: TimeGrid
    root: int
    device: torch.device
    plan: ExpertPlan | None
    experts: TargetExperts | None
    weights: BandWeights | None
    shortcut: Shortcut | None
    show: Show
    memory: MicroBatches = field(default_factory=MicroBatches)
    coarse: "Pipeline | None" = None

    @classmethod
    def of(
        cls,
        model: BaseModel,
        targets: TargetSet,
        method: Method,
        root: int,
        device: torch.device,
        *,
        network: Denoiser | None = None,
        plan: ExpertPlan | None = None,
        patches: PatchMixtures = (),
        weights: BandWeights | None = None,
    ) -> "Pipeline":
        """Fit the experts to the targets and put everything together.

        `network` stands in for the model's denoiser where that is wrapped, to be timed for example.
        `plan` and `patches` are needed where the method calibrates.
        """
        schedule, experts = model.denoiser.schedule, None
        show = partial(model.show, root=root)
        if plan is not None:
            experts = TargetExperts.fit(
                targets.fit_seen, schedule, plan.rho, plan.n_clusters, targets.symmetries, patches,
                show,
            )  # fmt: skip
            experts = on_device(experts, device)
        evaluated = model.denoiser if network is None else network
        return cls(
            base=CountingDenoiser(evaluated),
            network=evaluated,
            codes=model.codes,
            targets=targets,
            method=method,
            timesteps=time_grid(schedule, method),
            root=root,
            device=device,
            plan=plan,
            experts=experts,
            weights=weights,
            shortcut=_shortcut(model.denoiser, experts, targets.fit_seen[0].shape, method, device),
            show=show,
        )

    def above(self, coarse: "Pipeline") -> "Pipeline":
        """The same with the pipeline of coarse targets."""
        return replace(self, base=coarse.base, coarse=coarse)

    def calibrated(self, weights: BandWeights) -> "Pipeline":
        """The same with the weights of its calibrated denoiser."""
        return replace(self, weights=weights)

    def denoiser(self, labels: Labels) -> Denoiser:
        """The denoiser for maps of the given clusters: the calibrated stack, or the base."""
        if self.experts is None or self.weights is None:
            return self.base
        return CalibratedDenoiser(self.base, self.experts, self.weights, labels)

    def labels(self, maps: Maps) -> Labels:
        """The cluster of each clean map or code, on the host; all zero without clusters."""
        if self.experts is None:
            return torch.zeros(len(maps), dtype=torch.int64)
        return self.experts.assign(maps.to(self.device)).cpu()

    def decode(self, denoiser: Denoiser, latents: Latents, seeds: SeedRange) -> Maps:
        """Decode latents on the device, one per seed, to what the denoiser works on."""
        how = self.method
        return decode(denoiser, how.solver, latents, self.timesteps, seeds, how.eta, self.shortcut)

    def maps(self, seen: Maps) -> Maps:
        """Maps in model range of what the denoiser makes: decoded where it makes codes."""
        return seen if self.codes is None else self.codes.decode(seen)

    def physical(self, maps: Maps) -> NDArray[np.float32]:
        """Samples in physical units, rounded and cut off as the targets are if the method says so.

        `maps` are in model range and on the host.
        """
        values = self.targets.physical(maps)
        return values if self._quantization is None else self._quantization(values)

    @cached_property
    def _quantization(self) -> Quantization | None:
        return self.targets.quantization if self.method.quantization else None

    def lift(self, denoiser: Denoiser, seen: Maps) -> Inversion:
        """Invert maps, or codes, that are on the device."""
        return invert(
            denoiser,
            seen,
            self.timesteps,
            self.method.fixed_point_iterations,
            shortcut=self.shortcut,
        )

    def lower(self, denoiser: Denoiser, latents: Latents) -> Maps:
        """Undo `lift`: decode by the deterministic solver."""
        return decode(denoiser, "ddim", latents, self.timesteps, shortcut=self.shortcut)

    def invert(self, rows: slice | list[int], capacity: int) -> Inversion:
        """Invert fit targets on the device, padded to a batch of `capacity`.

        The round trip of a latent base ends in pixels, so its error includes that of the
        autoencoder.
        """
        seen = padded(self.targets.fit_seen[rows], capacity)
        labels = self.labels(seen)

        def lifted(part: slice) -> Inversion:
            return self.lift(self.denoiser(labels[part]), seen[part].to(self.device))

        parts = self.memory(lifted, capacity)
        columns = ([getattr(part, one.name) for part in parts] for one in fields(Inversion))
        done = Inversion(*(torch.cat(column) for column in columns))
        if self.codes is None:
            return done
        maps = padded(self.targets.fit_ranged[rows], capacity).to(self.device)
        back = self.codes.decode(done.round_trip)
        error = ((back - maps) ** 2).flatten(1).mean(dim=1).sqrt()
        return replace(done, round_trip=back, error=error)


@final
@dataclass(frozen=True, slots=True, eq=False)
class FittedPrior:
    """The prior of the latents, their norms, and the geometry that its draws must have."""

    prior: GaussianPrior
    norms: Norms
    geometry: ShellGeometry


def require_stack(model: BaseModel, method: Method) -> None:
    """Refuse several bases without experts.

    Raises:
        ConfigError: nothing would weigh them.
    """
    if model.several and method.calibration is None:
        raise ConfigError(
            f"base: got {len(model.several)} bases for a method without calibration; expected one, "
            "or a method that weighs them: leave method.calibration as it is by default"
        )


def with_pyramid(method: Method, model: BaseModel, targets: TargetSet) -> Method:
    """Return the method with the factor of its coarse maps.

    `auto` draws none where targets have plateaus (`ood_core.denoising.plateaus`): means that are
    not quite the plateau's leave specks there.

    Raises:
        ConfigError: a factor that does not suit maps, model or method.
    """
    _, height, width = targets.shape
    able = model.codes is None and not model.fixed_size and method.calibration is not None
    if method.pyramid == "auto":
        factor = coarse_factor(height, width) if able else 1
        if factor > 1 and method.quantization and Plateaus.of(targets.fit_ranged) is not None:
            factor = 1
        method = replace(method, pyramid=factor)
    factor = method.factor
    fits = height % factor == width % factor == 0 and min(height, width) >= factor * MIN_SIDE
    if factor > 1 and not (able and fits):
        raise ConfigError(
            f"method.pyramid: got {factor} for maps of {height} x {width} px; expected a divisor "
            f"of both sides that leaves {MIN_SIDE} px or more, a base of pixels of any size, and a "
            "method with calibration: give auto, or 1 for none"
        )
    if method.candidates < 1:
        raise ConfigError(
            f"method.steer.calls: got {method.steer and method.steer.calls}; expected "
            f"{2 * (method.steps + 1)} or more, since the coarse map of a sample takes as many "
            "as the sample: give more, or method.pyramid 1"
        )
    return method


def coarse_factor(height: int, width: int) -> int:
    """Pixels a side that one of the coarse map stands for; 1 where maps are not large."""
    most = min(height, width) // COARSE_SIDE
    factors = (f for f in range(most, LEAST_FACTOR - 1, -1) if height % f == width % f == 0)
    return next(factors, 1)


def coarse_method(method: Method) -> Method:
    """What is done with coarse maps: the same without a pyramid and without wishes."""
    return replace(method, pyramid=1, steer=None)


def fit_mixtures(
    seen: Maps, spec: CalibrationSpec, symmetries: Sequence[Symmetry], identity: str
) -> tuple[PatchMixtures, PatchMixtures, PatchMixtures]:
    """Mixtures over the patches of all targets and of either half; empty where none are wanted."""
    if spec.patches == 0:
        return (), (), ()
    root = root_key(identity + "/patches")
    every, first, second = fit_patches_of((seen, *halves(seen)), spec, symmetries, root)
    return row_major((every, first, second))


def held_numbers(method: Method, error: PerSample, fit: Maps) -> tuple[int, ...]:
    """Numbers of the fit targets whose round trip holds; `fit` are these targets in model range."""
    good = held(error, fit.flatten(1).std(dim=1), method.round_trip_limit)
    return tuple(torch.nonzero(good)[:, 0].tolist())


def fit_prior_of(
    method: Method, latents: Latents, symmetries: Sequence[Symmetry], identity: str
) -> FittedPrior:
    """Fit the prior to latents whose round trip holds, and measure the geometry of its draws.

    Raises:
        PriorUnderdetermined: fewer than four latents, or latents that no prior makes likely.
    """
    prior = row_major(fit_gaussian(latents, method.prior, symmetries))
    sampler = latent_sampler(method.draw, prior, latents)
    root = root_key(identity + "/geometry")
    geometry = measure_geometry(method.draw, sampler, root, latents)
    return FittedPrior(prior, norms(latents), geometry)


@final
class Calibrator:
    """Fits the experts' weights, timestep by timestep, cross-fitted on halves of the targets.

    `halves` are the mixtures over patches of either half, empty where the method has none.
    """

    def __init__(
        self, pipeline: Pipeline, halves: tuple[PatchMixtures, PatchMixtures] = ((), ())
    ) -> None:
        spec, plan, experts = pipeline.method.calibration, pipeline.plan, pipeline.experts
        if spec is None or plan is None or experts is None:
            raise ValueError("got a pipeline without experts; expected a method that calibrates")
        seen, schedule = pipeline.targets.fit_seen, pipeline.base.schedule
        self._pipeline, self._spec = pipeline, spec
        self._mean, self._plan = experts.gaussian.mean, plan
        folds = TargetExperts.cross_fitted(
            seen, schedule, plan.rho, plan.n_clusters, pipeline.targets.symmetries, halves,
            pipeline.show,
        )  # fmt: skip
        self._folds = [on_device(fold, pipeline.device) for fold in folds]
        self._seen = seen.to(pipeline.device)
        statistics = statistics_of(pipeline, seen)
        compare = Comparison.of(seen, self._mean.cpu(), statistics, pipeline.root)
        self._compare = on_device(compare, pipeline.device)

    def weights_at(self, t: int) -> Calibrated:
        """Weights at one timestep, `(bands, experts)`, its gate, and what both leave."""
        pipeline = self._pipeline
        weights, gate, maps = calibrate_timestep(
            self._seen, pipeline.base, self._folds, self._mean, t, self._spec,
            pipeline.targets.symmetries, pipeline.root,
        )  # fmt: skip
        noise = pipeline.base.schedule.noise_to_signal(t)
        return weights, gate, self._compare(*maps, t, noise)

    def weights(self, by_timestep: Mapping[int, Calibrated]) -> BandWeights:
        """The weights of all timesteps, in rising order."""
        rising = sorted(by_timestep)
        ratio = [self._pipeline.base.schedule.noise_to_signal(t) for t in rising]
        return BandWeights(
            noise_to_signal=torch.tensor(ratio, dtype=torch.float32),
            knots=torch.tensor(self._plan.knots),
            weights=torch.stack([by_timestep[t][0] for t in rising]),
            gate=Gate.stacked([by_timestep[t][1] for t in rising]),
            left=LeftOpen.stacked([by_timestep[t][2] for t in rising]),
        )


def statistics_of(
    pipeline: Pipeline, seen: Maps, plateaus: Plateaus | None = None, taper: Taper | None = None
) -> Statistics:
    """The statistics of maps like the targets that samples are steered by."""
    symmetries = pipeline.targets.symmetries
    bins = radial_bins(pipeline.method.steering, symmetries)
    centred = "centred" in symmetries
    return Statistics(seen.shape[-2], bins, seen.shape[-1], plateaus, taper, centred)


def radial_bins(steering: SteeringSpec | None, symmetries: Sequence[Symmetry]) -> int:
    """Number of rings whose means are steered; 0 where maps have no centre."""
    return 0 if steering is None or "translate" in symmetries else steering.radial_bins


def time_grid(schedule: NoiseSchedule, method: Method) -> TimeGrid:
    """The rising time indices of a method."""
    if method.timesteps is not None:
        return torch.tensor(method.timesteps)
    match method.spacing:
        case "uniform":
            return schedule.uniform_grid(method.steps + 1, method.top, method.ends[0])
        case "log_snr":
            return schedule.log_snr_grid(method.steps + 1, method.top, method.ends[0])


def padded(maps: Maps, capacity: int) -> Maps:
    """Repeat the last map up to the batch shape, so that every shard runs the same kernels."""
    if len(maps) == capacity:
        return maps
    return torch.cat([maps, maps[-1:].expand(capacity - len(maps), -1, -1, -1)])


def choose_device(name: str) -> torch.device:
    """Return the named device, or for `auto` the GPU that this process sees, else the CPU.

    Raises:
        ConfigError: this process sees no such device.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(name, True):
        raise ConfigError(
            f"device: got {name}; {socket.gethostname()} has none that this process may use: "
            "mend driver and torch's build, or take cpu or auto"
        )
    if name == "auto":
        return torch.device("cuda" if there["cuda"] else "cpu")
    return torch.device(name)


def _shortcut(
    base: Denoiser,
    experts: TargetExperts | None,
    shape: Sequence[int],
    method: Method,
    device: torch.device,
) -> Shortcut | None:
    """Flow from the top of the grid to `t_max`: of the targets' Gaussian, or of the base's own."""
    if not method.teleport:
        return None
    if experts is None:
        gaussian = base_gaussian(base, tuple(shape), GAUSSIAN_ROOT, device)
    else:
        gaussian = experts.gaussian
    flow = Teleport(base.schedule, gaussian.mean, gaussian.covariance)
    return Shortcut(flow, method.top, method.ends[1])
