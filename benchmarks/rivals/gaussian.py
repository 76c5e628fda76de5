"""Gaussian rivals: a random field with the targets' spectrum, and draws of their Gaussian.

The field knows one mean per channel and the isotropic power; its phases are random. The Gaussian is
that of the Gaussian expert of the calibrated denoiser: mean image, sample covariance and spectrum.
Its exact denoiser alone, integrated without error, would make exactly these draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from benchmarks.rivals.baseline import Made, require_targets
from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.prior import fit_gaussian
from ood_core.estimators.spectra import annular_profile
from ood_core.numerics.covariance import Stationary
from ood_core.numerics.random import SeedRange

MIN_MAPS = 4  # maps that the estimators need


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianField:
    """Stationary Gaussian random field with the mean and the isotropic spectrum of the targets.

    Power is constant in annuli `width` modes wide. That of the maps' means stands alone: it is
    often another than that of the largest waves, and nothing is interpolated between both.
    """

    width: float = 1.0

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Draw one field per seed; see `Baseline`."""
        require_targets(targets, MIN_MAPS)
        mean = targets.mean((0, -2, -1), keepdim=True)[0]
        power = (torch.fft.fft2(targets - mean, norm="ortho").abs() ** 2).mean(dim=0)
        power[:, 0, 0] *= len(targets) / (len(targets) - 1)  # one number of all maps is their mean
        annulus, profile = annular_profile(power, self.width)
        covariance = Stationary(profile[:, annulus])
        return Made(GaussianPrior(mean.expand_as(power), covariance, 1.0, 0.0).sample(seeds))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianDraws:
    """Draws of the spectral + low-rank Gaussian of the targets.

    `white` is the noise under which the stationary share was chosen: 1 as for the expert.
    """

    white: float = 1.0

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Draw one map per seed; see `Baseline`."""
        require_targets(targets, MIN_MAPS)
        gaussian = fit_gaussian(targets, "spectral_low_rank", symmetries, self.white)
        return Made(gaussian.sample(seeds), notes={"rho": gaussian.rho})
