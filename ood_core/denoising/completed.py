"""Estimates with the power that posterior means lack.

A step down takes the mean `D = E[x0 | x_t]` in the place of a draw of `x0`, and a few large steps
so lose much of the power (docs/method.md, *Lost power*). Calibration measures on targets that the
experts have not seen, per wavenumber, the power `E` that the stack leaves and the power `K` that
its estimates have. Every estimate then gets `E` back, by a gain on its own modes and by noise,

    mu + F^-1[ g F[D - mu] ] + r(c) n,    n: Gaussian noise of what the gain does not give back

so that the step leaves the power that it would with draws. Noise is exact for a Gaussian field (Bao
et al. 2022, Analytic-DPM, arXiv 2201.06503, theorem 1, with one variance for all pixels; here one
per wavenumber, and `r` by local brightness). But it has no phases: where maps are sparse it makes
bright objects lumpy, and a gain keeps the phases that an estimate has. On fields that are nearly
Gaussian a gain amplifies errors of the experts instead. So calibration completes estimates of
targets, once with each limit of the gain in `LIMITS`, and the limit is taken whose statistics are
nearer to those of the targets themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Map, Maps, on_device
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.denoising.local_detail import LocalDetail
from ood_core.denoising.statistics import SPREAD_FLOOR, Statistics
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.gaussian import band_spectrum
from ood_core.numerics.covariance import filtered
from ood_core.numerics.random import SeedRange, StepNoise, Stream, normal_like

LIMITS = 1.0, 2.0
"""Of the gain: all by noise, or as far as may be by a gain."""
JUDGED = 0.1, 4.0  # `sigma/alpha` at which completed estimates are compared with targets
LEAST = 1e-4  # of a mode's power that an estimate is taken to have
ENOUGH = 32  # maps that are compared
KNOTS = 24  # wavenumbers at which power is measured: it falls steeply


@final
@dataclass(frozen=True, slots=True, eq=False)
class LeftOpen:
    """What the stack leaves, of one timestep or of several.

    `left` is the power of what estimates lack, in parts of what a Gaussian field leaves, and `kept`
    that of estimates about the mean, in parts of the targets' power, both at `KNOTS` wavenumbers.
    `gaps` are the mean square distances of completed estimates from targets, in spreads of
    statistics, per limit of the gain.
    """

    left: Float[Tensor, "*timesteps knots"]
    kept: Float[Tensor, "*timesteps knots"]
    gaps: Float[Tensor, "*timesteps limits"]

    @classmethod
    def stacked(cls, every: "Sequence[LeftOpen]") -> "LeftOpen":
        """Those of several timesteps as one."""
        names = [field.name for field in fields(cls)]
        return cls(*(torch.stack([getattr(one, name) for one in every]) for name in names))

    def at(self, power: Map, noise_to_signal: float) -> tuple[Map, Map]:
        """Power left and power kept of one timestep, per Fourier mode, of targets of a power."""
        left, kept = (_spread(part, power) for part in (self.left, self.kept))
        return left * left_by_gaussian(power, noise_to_signal), kept * power

    def limit(self) -> float:
        """The limit of the gain that leaves the smaller gap over all timesteps."""
        return LIMITS[int(self.gaps.reshape(-1, len(LIMITS)).sum(dim=0).argmin())]


def left_by_gaussian(power: Map, noise_to_signal: float) -> Map:
    """Power that a Gaussian field leaves open, per Fourier mode."""
    return power / (power / noise_to_signal**2 + 1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Completion:
    """Gain on an estimate's modes about the mean, and spectrum of the noise, at one timestep."""

    gain: Map
    noise: Map

    @classmethod
    def of(cls, left: Map, kept: Map, remains: float, limit: float) -> "Completion":
        """For a step after which `remains`, `(q/r)^2`, of the variance of the noise is there.

        `x_t / alpha` has the covariance `P = K + E` with a posterior mean (Tweedie), so a step
        leaves `k^2 (P + r^2) + 2 k (1 - k) g P + (1 - k)^2 g^2 K` of estimates with the gain `g`,
        and with draws of power `P` in their place as much where, with `p = P / K`,

            (1 - k) g^2 + 2 k p g = (1 + k) p
        """
        rest, share = 1 - remains, 1 + left / kept
        along = remains * share
        gain = ((along**2 + rest * (1 + remains) * share).sqrt() - along) / rest
        gain = gain.clamp(1, limit)
        wanted = (1 + remains) * share - rest * gain.square() - 2 * along * gain
        missing = kept * wanted / rest
        return cls(gain, missing.clamp_min(0).sqrt())

    def __call__(self, estimate: Maps, mean: Map, white: Maps, local: LocalDetail) -> Maps:
        """Complete estimates with noise made of standard normals."""
        rough = local(estimate) * filtered(white, self.noise)
        return mean + filtered(estimate - mean, self.gain) + rough


@final
@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Measures what estimates of noised targets leave of them.

    Args:
        mean: of the targets.
        power: of the targets about it, per Fourier mode.
        local: how rough they are by local brightness.
        statistics: by which completed estimates are compared with targets.
        root: of random numbers.
    """

    mean: Map
    power: Map
    local: LocalDetail
    statistics: Statistics
    root: int

    @classmethod
    def of(cls, targets: Maps, mean: Map, statistics: Statistics, root: int) -> "Comparison":
        """Measure what is needed of the targets, on the host."""
        power, local = band_spectrum(targets - mean), LocalDetail.measure(targets)
        return cls(mean, power, local, statistics, root)

    def __call__(self, estimates: Maps, clean: Maps, t: int, noise: float) -> LeftOpen:
        """Measure at one timestep and its `noise`, `sigma/alpha`; maps are about the mean."""
        gaussian = left_by_gaussian(self.power, noise)
        left = _shares(clean - estimates, gaussian).clamp(0, 1)
        kept = _shares(estimates, self.power).clamp_min(LEAST)
        found = LeftOpen(left, kept, torch.zeros(len(LIMITS)))
        if JUDGED[0] <= noise <= JUDGED[1]:
            rows = torch.arange(min(ENOUGH, len(clean))) * len(clean) // min(ENOUGH, len(clean))
            made, own = self.mean + estimates[rows], self.statistics(self.mean + clean[rows])
            white = normal_like(made, self.root, t, Stream.COMPLETION)
            spectra = found.at(self.power, noise)
            spread = own.std(dim=0).clamp_min(SPREAD_FLOOR)
            for number, limit in enumerate(LIMITS):
                completion = Completion.of(*spectra, 0.0, limit)
                whole = completion(made, self.mean, white, self.local)
                gap = ((self.statistics(whole) - own).mean(0) / spread).square().mean()
                found.gaps[number] = gap
        return on_device(found, "cpu")


def _hats(y: int, x: int) -> Float[Tensor, "knots y x"]:
    return hat_functions(band_knots(y, x, KNOTS), y, x)


def _shares(maps: Maps, power: Map) -> Float[Tensor, " knots"]:
    """Power of maps in parts of another one, about each knot."""
    own = (torch.fft.fft2(maps, norm="ortho").abs() ** 2).mean((0, 1))
    hats = _hats(*own.shape[-2:]).to(own)
    made: Tensor = (hats * own).sum((1, 2)) / (hats * power.mean(0)).sum((1, 2)).clamp_min(1e-30)
    return made


def _spread(shares: Float[Tensor, " knots"], like: Map) -> Float[Tensor, "y x"]:
    hats = _hats(*like.shape[-2:]).to(like)
    return (shares.to(like)[:, None, None] * hats).sum(0)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Completions:
    """What estimates get at every time index, about the targets' `mean` and by their roughness."""

    at: Mapping[int, Completion]
    mean: Map
    local: LocalDetail

    @classmethod
    def of(
        cls,
        spectra: Mapping[int, tuple[Map, Map]],
        schedule: NoiseSchedule,
        limit: float,
        mean: Map,
        local: LocalDetail,
    ) -> "Completions":
        """For power left and kept at each time index; no noise remains after the least of them."""
        falling = sorted(spectra, reverse=True)
        levels = [schedule.noise_to_signal(t) for t in falling]
        remains = [(below / above) ** 2 for above, below in pairwise([*levels, 0.0])]
        at = {
            t: Completion.of(*spectra[t], share, limit)
            for t, share in zip(falling, remains, strict=True)
        }
        return cls(at, mean, local)


@final
class CompletedDenoiser:
    """A denoiser whose estimates have the power of draws; one instance per batch.

    `seeds` has one sample per map, `timesteps` are the falling time indices of the way down.
    """

    def __init__(
        self,
        inner: Denoiser,
        completions: Completions,
        seeds: SeedRange,
        timesteps: Sequence[int] = (),
    ) -> None:
        self._inner, self._completions = inner, completions
        self._noise = StepNoise(seeds, Stream.COMPLETION, timesteps)

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the completed estimate."""
        estimate, every = self._inner(x_t, t), self._completions
        return every.at[t](estimate, every.mean, self._noise.at(t, estimate), every.local)
