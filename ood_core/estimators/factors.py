"""Stationary covariance plus a few factors, each of which left-out maps have confirmed (own).

    C = Q + P^(1/2) U diag(v - 1) U^T P^(1/2)

`P` is the stationary law of the maps. In its metric it predicts variance 1 along every direction.
`U` are the leading eigenmodes of the maps whitened by it, found in the dual. `v` is the variance
that left-out maps have along modes fitted without them (2-fold, by rank); a mode is kept while `v`
exceeds 1 by two standard errors. `Q` is `P` without the power that the factors carry, per annulus,
so that every annulus keeps the power that was measured: factors say how modes go together.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.annuli import carried_power, radial_mean
from ood_core.estimators.moments import group_mean
from ood_core.estimators.sectors import Modes, leading_modes, most_modes
from ood_core.estimators.spectra import Spectra, whitened
from ood_core.numerics.covariance import CrossStationary, LowRank, Stationary

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
