"""Gaussian estimators from few maps: isotropic, and spectral + low-rank.

With `n` maps in `d >> n` dimensions the sample covariance has rank `n - 1`. The structured family
here is `C = (1 - rho) S + rho P`, where `S` is the sample covariance of the symmetrised maps (kept
in its dual form) and `P` the stationary covariance with the maps' own band-smoothed spectrum. `rho`
is chosen by the likelihood of maps that were left out (`ood_core.estimators.prior`).

Spectral + low-rank where a factor per image would be too many: leading modes of `S` instead.

    C = rho P + (1 - rho) (sum over r modes of l u u^T + T)

`T` is what the modes leave of the maps' spectrum `P`, per annulus: the rest of `S`, made
stationary. So every annulus keeps the power that was measured.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch

from ood_core.arrays import Latents, Map, Maps, PerSample
from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.estimators.moments import group_mean, unbiased_residuals
from ood_core.estimators.sectors import leading_modes, most_modes
from ood_core.estimators.spectra import (
    SPECTRUM_FLOOR,
    carried_power,
    mode_powers,
    radial_mean,
)
from ood_core.numerics.covariance import Covariance, LowRank, Stationary, isotropic
from ood_core.numerics.random import SeedRange, Stream, normal
from ood_core.numerics.symmetry import orbit, orbit_size

Gaussian = tuple[Map, Covariance]


@final
@dataclass(frozen=True, slots=True)
class Family:
    """A Gaussian `at` each share of its shrinkage target, and the shares among which to choose."""

    at: Callable[[float], Gaussian]
    shares: tuple[float, ...] = (1.0,)


def fit_truncated(
    maps: Maps, symmetries: Sequence[Symmetry]
) -> Callable[[float], tuple[Map, Stationary | LowRank]]:
    """Fit mean, spectrum and modes once; the distribution at any stationary share `rho` follows."""
    mean, residuals = group_mean(maps, symmetries), unbiased_residuals(maps, symmetries)
    powers = mode_powers(residuals, torch.zeros_like(mean))
    own = powers.diagonal().permute(2, 0, 1).real.float()
    floor = SPECTRUM_FLOOR * float(own.mean())
    power = radial_mean(own).clamp_min(floor)
    modes = leading_modes(residuals, symmetries, most_modes(mean.numel()))
    values = modes.values
    left = (power - radial_mean(carried_power(modes.maps, values))).clamp_min(floor)

    def at(rho: float) -> tuple[Map, Stationary | LowRank]:
        if rho >= 1:
            return mean, Stationary(power)
        factors = modes.maps * ((1 - rho) * values).sqrt()[:, None, None, None]
        return mean, LowRank(Stationary(torch.lerp(left, power, rho)), factors)

    return at


EXACT = 2**27
"""Most numbers in images of all maps for a factor each, 512 MiB; beyond see `truncated`."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class GaussianPrior:
    """`N(mean, covariance)`, with the share `rho` of the stationary part and the held-out score.

    `held_out_log_density` is the mean per map and dimension over left-out maps, in nats.
    """

    mean: Map
    covariance: Covariance
    rho: float
    held_out_log_density: float

    @property
    def description(self) -> str:
        """One line for people."""
        factors = f", {self.covariance.rank} factors" if self.covariance.rank else ""
        return f"rho {self.rho:g}{factors}"

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Latents:
        """Draw one latent per seed; attempt `a` of a sample has numbers of its own."""
        white = normal(seeds, self.mean.shape, attempt, Stream.LATENT)
        factors = normal(seeds, (self.covariance.rank,), attempt, Stream.FACTOR)
        return self.mean + self.covariance.colour(white, factors)

    def log_density(self, latents: Latents) -> PerSample:
        """Log density per latent, natural units."""
        return log_density(latents, self.mean, self.covariance)


def estimate(
    maps: Maps,
    kind: Literal["isotropic", "spectral_low_rank"],
    rho: float,
    symmetries: Sequence[Symmetry],
) -> tuple[Map, Covariance]:
    """Mean and covariance of the family at a given `rho`.

    The isotropic variance is the unbiased `sum |x - mean|^2 / ((n - 1) d)`. The symmetrised mean of
    the other family averages over the group as well.
    """
    if kind == "isotropic":
        mean = maps.mean(dim=0)
        variance = ((maps - mean) ** 2).sum() / max(1, len(maps) - 1) / mean.numel()
        return mean, isotropic(float(variance), tuple(mean.shape))
    if is_large(maps, symmetries):
        return fit_truncated(maps, symmetries)(rho)
    mean = symmetric_mean(maps, symmetries)
    residuals = torch.cat(orbit(unbiased_residuals(maps, symmetries), symmetries))
    stationary = Stationary(rho * band_spectrum(residuals))
    if rho >= 1:
        return mean, stationary
    return mean, LowRank(stationary, residuals * math.sqrt((1 - rho) / len(residuals)))


def is_large(maps: Maps, symmetries: Sequence[Symmetry]) -> bool:
    """Whether a factor per image of every map would be too many numbers (`EXACT`)."""
    return maps.numel() * orbit_size(symmetries) > EXACT


def symmetric_mean(maps: Maps, symmetries: Sequence[Symmetry]) -> Map:
    """Mean over maps and group elements; one constant per channel under translations."""
    mean = torch.cat(orbit(maps, symmetries)).mean(dim=0)
    if "translate" in symmetries:
        mean = mean.mean((-2, -1), keepdim=True).expand_as(mean).contiguous()
    return mean


def band_spectrum(residuals: Maps, width: float = 1.0) -> Map:
    """Isotropic power per Fourier mode, averaged over maps and annuli `width` modes wide.

    Values between the annuli's mean radii are interpolated, so that the spectrum is continuous.
    """
    power = (torch.fft.fft2(residuals, norm="ortho").abs() ** 2).mean(dim=0)
    return radial_mean(power, width).clamp_min(SPECTRUM_FLOOR * float(power.mean()))
