"""Gaussian estimators from few maps: isotropic, and spectral + low-rank.

With `n` maps in `d >> n` dimensions the sample covariance has rank `n - 1`. The structured family
here is `C = (1 - rho) S + rho P`, where `S` is the sample covariance of the symmetrised maps (kept
in its dual form) and `P` the stationary covariance with the maps' own band-smoothed spectrum. `rho`
is chosen by the likelihood of maps that were left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Latents, Map, Maps
from ood_core.diffusion.analytic import log_density
from ood_core.errors import PriorUnderdetermined
from ood_core.linalg import Covariance, LowRank, Stationary, isotropic, wavenumbers
from ood_core.seeds import SeedRange, Stream, normal
from ood_core.specs import PriorKind, Symmetry
from ood_core.symmetry import orbit

RHO_GRID = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 1.0)
SPECTRUM_FLOOR = 1e-4  # of the mean power: keeps empty bands invertible


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

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Latents:
        """Draw one latent per seed; attempt `a` of a sample has numbers of its own."""
        white = normal(seeds, self.mean.shape, attempt, Stream.LATENT)
        factors = normal(seeds, (self.covariance.rank,), attempt, Stream.FACTOR)
        return self.mean + self.covariance.colour(white, factors)


def fit_gaussian(
    maps: Maps, kind: PriorKind, symmetries: Sequence[Symmetry] = (), white: float = 0.0
) -> GaussianPrior:
    """Fit the law of maps or latents.

    `white` is the standard deviation of the white noise under which the law will be used: left-out
    maps are scored under `C + white^2 I`, so that `rho` suits that use.

    Raises:
        PriorUnderdetermined: fewer than 2 maps (isotropic) or 4 maps (spectral + low-rank).
    """
    needed = 2 if kind == "isotropic" else 4
    if len(maps) < needed:
        raise PriorUnderdetermined(
            f"got {len(maps)} maps; a prior of kind {kind} needs at least {needed}: "
            "add targets, or hold fewer out"
        )
    halves = (maps[0::2], maps[1::2])
    folds = [(halves[0], halves[1]), (halves[1], halves[0])]
    grid = (1.0,) if kind == "isotropic" else RHO_GRID
    scores = [
        sum(_held_out_score(fold, kind, rho, symmetries, white) for fold in folds) / 2
        for rho in grid
    ]
    best = max(range(len(grid)), key=lambda i: scores[i])
    mean, covariance = estimate(maps, kind, grid[best], symmetries)
    return GaussianPrior(mean, covariance, grid[best], scores[best])


def estimate(
    maps: Maps, kind: PriorKind, rho: float, symmetries: Sequence[Symmetry]
) -> tuple[Map, Covariance]:
    """Mean and covariance of the family at a given `rho`.

    The isotropic variance is the unbiased `sum |x - mean|^2 / ((n - 1) d)`. The symmetrised mean of
    the other family averages over the group as well.
    """
    if kind == "isotropic":
        mean = maps.mean(dim=0)
        variance = ((maps - mean) ** 2).sum() / max(1, len(maps) - 1) / mean.numel()
        return mean, isotropic(float(variance), tuple(mean.shape))
    images = torch.cat(orbit(maps, symmetries))
    mean = symmetric_mean(maps, symmetries)
    residuals = (images - mean) * math.sqrt(len(maps) / max(1, len(maps) - 1))
    stationary = Stationary(rho * band_spectrum(residuals))
    if rho >= 1:
        return mean, stationary
    return mean, LowRank(stationary, residuals * math.sqrt((1 - rho) / len(images)))


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
    c, y, x = residuals.shape[1:]
    power = (torch.fft.fft2(residuals, norm="ortho").abs() ** 2).mean(dim=0)
    radius = wavenumbers(y, x)
    band = (radius * min(y, x) / width).round().long()
    count = torch.bincount(band.flatten()).clamp_min(1)
    profile = torch.zeros(c, len(count))
    profile.index_add_(1, band.flatten(), power.reshape(c, -1))
    profile = profile / count
    centre = torch.bincount(band.flatten(), weights=radius.flatten()) / count
    smooth = torch.stack([_interpolate(radius, centre, row) for row in profile])
    return smooth.clamp_min(SPECTRUM_FLOOR * float(power.mean()))


def _interpolate(
    at: Float[Tensor, "y x"], knots: Float[Tensor, " b"], values: Float[Tensor, " b"]
) -> Float[Tensor, "y x"]:
    above = torch.searchsorted(knots.contiguous(), at.contiguous()).clamp(1, len(knots) - 1)
    low, high = knots[above - 1], knots[above]
    share = ((at - low) / (high - low)).clamp(0, 1)
    return values[above - 1] * (1 - share) + values[above] * share


def _held_out_score(
    fold: tuple[Tensor, Tensor],
    kind: PriorKind,
    rho: float,
    symmetries: Sequence[Symmetry],
    white: float,
) -> float:
    fit, left_out = fold
    mean, covariance = estimate(fit, kind, rho, symmetries)
    blurred = covariance.plus_white(white**2)
    return float(log_density(left_out, mean, blurred).mean()) / mean.numel()
