"""Gaussian rivals: a random field with the targets' spectrum, and draws of their Gaussian law.

The field knows one mean per channel and the isotropic power; its phases are random. The law is
that of the Gaussian expert of the calibrated denoiser: mean image, sample covariance and spectrum.
Its exact denoiser alone, integrated without error, would make exactly these draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ood_core.arrays import Maps
from ood_core.baselines.baseline import Made, require_targets
from ood_core.priors.families import fit_gaussian
from ood_core.priors.gaussian import GaussianPrior, estimate
from ood_core.seeds import SeedRange
from ood_core.specs import Symmetry

LEAST = 4  # maps that the estimators need


@final
@dataclass(frozen=True, slots=True)
class GaussianField:
    """Stationary Gaussian random field with the mean and the isotropic spectrum of the targets."""

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Draw one field per seed; see `Baseline`."""
        require_targets(targets, LEAST)
        everywhere: set[Symmetry] = {*symmetries, "translate"}  # one mean for all pixels
        mean, covariance = estimate(targets, "spectral_low_rank", 1.0, sorted(everywhere))
        return Made(GaussianPrior(mean, covariance, 1.0, 0.0).sample(seeds))


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class GaussianLaw:
    """Draws of the spectral + low-rank law of the targets.

    `white` is the noise under which the stationary share was chosen: 1 as for the expert.
    """

    white: float = 1.0

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Draw one map per seed; see `Baseline`."""
        require_targets(targets, LEAST)
        law = fit_gaussian(targets, "spectral_low_rank", symmetries, self.white)
        return Made(law.sample(seeds), notes={"rho": law.rho})
