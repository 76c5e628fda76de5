"""Spectral + low-rank where a factor per image would be too many: leading modes of `S` instead.

    C = rho P + (1 - rho) (sum over r modes of l u u^T + T)

`T` is what the modes leave of the maps' spectrum `P`, per annulus: the rest of `S`, made
stationary. So every annulus keeps the power that was measured.
"""

from collections.abc import Callable, Sequence

import torch

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.annuli import SPECTRUM_FLOOR, carried_power, radial_mean
from ood_core.estimators.moments import group_mean
from ood_core.estimators.sectors import leading_modes, most_modes
from ood_core.estimators.spectra import mode_powers
from ood_core.numerics.covariance import LowRank, Stationary


def fit_truncated(
    maps: Maps, symmetries: Sequence[Symmetry]
) -> Callable[[float], tuple[Map, Stationary | LowRank]]:
    """Fit mean, spectrum and modes once; the law at any stationary share `rho` follows."""
    unbias = len(maps) / max(1, len(maps) - 1)
    mean = group_mean(maps, symmetries)
    own = mode_powers(maps, mean).diagonal().permute(2, 0, 1).real.float() * unbias
    floor = SPECTRUM_FLOOR * float(own.mean())
    power = radial_mean(own).clamp_min(floor)
    modes = leading_modes(maps - mean, symmetries, most_modes(mean.numel()))
    values = modes.values * unbias
    left = (power - radial_mean(carried_power(modes.maps, values))).clamp_min(floor)

    def at(rho: float) -> tuple[Map, Stationary | LowRank]:
        if rho >= 1:
            return mean, Stationary(power)
        factors = modes.maps * ((1 - rho) * values).sqrt()[:, None, None, None]
        return mean, LowRank(Stationary(torch.lerp(left, power, rho)), factors)

    return at
