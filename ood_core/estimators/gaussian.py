"""Gaussian estimators from few maps: isotropic, and spectral + low-rank.

With `n` maps in `d >> n` dimensions the sample covariance has rank `n - 1`. The structured family
here is `C = (1 - rho) S + rho P`, where `S` is the sample covariance of the symmetrised maps (kept
in its dual form) and `P` the stationary covariance with the maps' own band-smoothed spectrum. `rho`
is chosen by the likelihood of maps that were left out (`families`).

Spectral + low-rank where a factor per image would be too many: leading modes of `S` instead.

    C = rho P + (1 - rho) (sum over r modes of l u u^T + T)

`T` is what the modes leave of the maps' spectrum `P`, per annulus: the rest of `S`, made
stationary. So every annulus keeps the power that was measured.

Stationary covariance plus a few factors, each of which left-out maps have confirmed (own).

    C = Q + P^(1/2) U diag(v - 1) U^T P^(1/2)

`P` is the stationary law of the maps. In its metric it predicts variance 1 along every direction.
`U` are the leading eigenmodes of the maps whitened by it, found in the dual. `v` is the variance
that left-out maps have along modes fitted without them (2-fold, by rank); a mode is kept while `v`
exceeds 1 by two standard errors. `Q` is `P` without the power that the factors carry, per annulus,
so that every annulus keeps the power that was measured: factors say how modes go together.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Latents, Map, Maps, PerSample
from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.estimators.moments import group_mean, unbiased_residuals
from ood_core.estimators.sectors import Modes, leading_modes, most_modes
from ood_core.estimators.spectra import (
    SPECTRUM_FLOOR,
    Spectra,
    carried_power,
    mode_powers,
    radial_mean,
    whitened,
)
from ood_core.numerics.covariance import Covariance, CrossStationary, LowRank, Stationary, isotropic
from ood_core.numerics.random import SeedRange, Stream, normal
from ood_core.numerics.symmetry import orbit, orbit_size

Law = tuple[Map, Covariance]


@final
@dataclass(frozen=True, slots=True)
class Family:
    """A law `at` each share of its shrinkage target, and the shares among which to choose."""

    at: Callable[[float], Law]
    shares: tuple[float, ...] = (1.0,)


def fit_truncated(
    maps: Maps, symmetries: Sequence[Symmetry]
) -> Callable[[float], tuple[Map, Stationary | LowRank]]:
    """Fit mean, spectrum and modes once; the law at any stationary share `rho` follows."""
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


MIN_SHARE = 0.02  # of an annulus' power that factors leave to the stationary part
STANDARD_ERRORS = 2.0
MAX_FACTORS = 256


def confirmed_factors(
    maps: Maps, spectra: Spectra, share: float, symmetries: Sequence[Symmetry]
) -> Stationary | LowRank | CrossStationary:
    """Fit the law at a share of the annuli (`Spectra.at`); needs four maps."""
    law = spectra.at(share)
    if "translate" in symmetries:
        return law  # shifts leave no direction but the modes themselves
    variances = _confirmed(maps, share, symmetries)
    mean = group_mean(maps, symmetries)
    modes = _modes(maps, mean, law, symmetries).first(len(variances))
    return with_factors(law, modes.maps, variances[modes.family]) if len(modes.maps) else law


def with_factors(
    law: Stationary | CrossStationary, modes: Maps, variances: Float[Tensor, " r"]
) -> LowRank:
    """Give orthonormal modes of the whitened maps their variances, and keep each annulus' power."""
    excess = (variances - 1).clamp_min(0)
    carried = carried_power(modes, excess)
    left = (1 - radial_mean(carried)).clamp_min(MIN_SHARE)
    factors = law.power_of(0.5).apply(modes * excess.sqrt()[:, None, None, None])
    return LowRank(_scaled(law, left), factors)


def _scaled(law: Stationary | CrossStationary, left: Map) -> Stationary | CrossStationary:
    """Multiply the power by a factor per mode; between channels by the roots of theirs."""
    match law:
        case Stationary(power):
            return Stationary(power * left)
        case CrossStationary(power):
            root = left.sqrt()
            return CrossStationary(power * root[:, None] * root[None, :])


def _confirmed(maps: Maps, share: float, symmetries: Sequence[Symmetry]) -> Float[Tensor, " k"]:
    """Left-out variances by rank, as far as they exceed what the spectrum predicts."""
    found = [
        _left_out(maps[parity::2], maps[1 - parity :: 2], share, symmetries) for parity in (0, 1)
    ]
    shortest = min(len(row) for row in found)
    variances = torch.stack([row[:shortest] for row in found]).mean(dim=0)
    falling = torch.cummin(variances, dim=0).values if shortest else variances
    limit = 1 + STANDARD_ERRORS * math.sqrt(2 / len(maps))
    return falling[falling > limit]


def _left_out(
    fit: Maps, left_out: Maps, share: float, symmetries: Sequence[Symmetry]
) -> Float[Tensor, " k"]:
    """Mean square of left-out maps along each family of modes of the others."""
    mean = group_mean(fit, symmetries)
    law = Spectra.measure(fit, mean, symmetries).at(share)
    modes = _modes(fit, mean, law, symmetries)
    along = whitened(left_out, mean, law).flatten(1) @ modes.maps.flatten(1).T
    families = int(modes.family.max()) + 1 if len(modes.family) else 0
    total = torch.zeros(families).index_add_(0, modes.family, (along**2).mean(dim=0))
    return total / torch.bincount(modes.family, minlength=families)


def _modes(
    maps: Maps, mean: Map, law: Stationary | CrossStationary, symmetries: Sequence[Symmetry]
) -> Modes:
    residuals = whitened(maps, mean, law)
    most = min(MAX_FACTORS, most_modes(mean.numel()))
    return leading_modes(residuals, symmetries, most)


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
    def words(self) -> str:
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
