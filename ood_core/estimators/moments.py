"""What a few latents say of their mean: norms without bias, and a mean shrunk band by band.

The mean of `n` maps in `d` dimensions carries noise of squared norm `sigma^2 d / n`, which for
latents is most of what is seen: its raw squared norm is 14 times that of the true mean at n = 2 and
1.4 times at n = 64 (`d = 196,608`, a mean of norm 82).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.spectra import mode_powers, radial_mean
from ood_core.numerics.covariance import filtered
from ood_core.numerics.symmetry import invariant

ENOUGH = 2**23  # numbers of maps for the spectrum of their noise: 42 maps of 3 x 256 x 256


@final
@dataclass(frozen=True, slots=True)
class Norms:
    """Unbiased squared norm of the mean, and variance per dimension, of `n` maps.

    `mean_square` estimates `|mu|^2` and can be negative where there is no mean to be seen.
    """

    mean_square: float
    variance: float
    dimensions: int
    n: int

    @property
    def needed(self) -> float:
        """Number of maps at which the mean's noise is as long as the mean: `sigma^2 d / |mu|^2`."""
        if self.mean_square <= 0:
            return math.inf
        return self.variance * self.dimensions / self.mean_square

    @property
    def identified(self) -> bool:
        """Whether the mean is longer than the noise of its estimate."""
        return self.n >= self.needed


def norms(maps: Maps) -> Norms:
    """Return `|mu|^2` and `sigma^2` without bias (own derivation).

        sigma^2 = sum |x_i - mean|^2 / ((n - 1) d)          |mu|^2 = |mean|^2 - sigma^2 d / n

    The second equals the mean of `<x_i, x_j>` over pairs of different maps. Needs two maps.
    """
    n, d = len(maps), maps[0].numel()
    mean = maps.mean(dim=0)
    squares = float(sum(((block - mean).double() ** 2).sum() for block in maps.split(64)))
    variance = squares / ((n - 1) * d)
    return Norms(float((mean.double() ** 2).sum()) - variance * d / n, variance, d, n)


def group_mean(maps: Maps, symmetries: Sequence[Symmetry]) -> Map:
    """Mean over maps, then over its images: one constant per channel under translations."""
    return invariant(maps.mean(dim=0, keepdim=True), symmetries)[0].contiguous()


def unbiased_residuals(maps: Maps, symmetries: Sequence[Symmetry]) -> Maps:
    """Return `r_i` such that the mean of `r r^T` over maps and images has no bias.

    The mean that is taken off is one over images too. It takes `1/n` of the variance from what the
    symmetries leave alone and nothing from the rest: only that part is scaled, by
    `(n / (n - 1))^1/2`.
    """
    rest = maps - group_mean(maps, symmetries)
    gain = math.sqrt(len(maps) / max(1, len(maps) - 1)) - 1
    return rest + gain * invariant(rest, symmetries)


def shrunk_mean(maps: Maps, symmetries: Sequence[Symmetry]) -> Map:
    """Return the symmetrised mean, shrunk per annulus towards the mean level of its channel.

    Positive-part James-Stein (James & Stein 1961; Efron & Morris 1973) per band, since means are
    smooth and the noise of latents is white:

        mu(k) = max(0, 1 - noise(|k|) / power(|k|)) mean(k)

    `power` is that of the mean, `noise` the variance of the symmetrised maps over `n`, measured on
    at most `ENOUGH` numbers of them. The zero mode is kept. Under translations only that one is
    left. Needs two maps.
    """
    mean = group_mean(maps, symmetries)
    if "translate" in symmetries:
        return mean
    some = invariant(evenly(maps, ENOUGH), symmetries)
    spread = _power(some - some.mean(dim=0)) * (len(some) / (len(some) - 1))
    seen = radial_mean(_power(mean[None])).clamp_min(torch.finfo().tiny)
    gain = (1 - radial_mean(spread / len(maps)) / seen).clamp(0, 1)
    gain[..., 0, 0] = 1
    return filtered(mean, gain)


def evenly(maps: Maps, most: int) -> Maps:
    """Evenly spaced maps of at most `most` numbers together; few ones themselves."""
    step = -(-maps.numel() // most)
    return maps[::step] if step > 1 else maps


def _power(maps: Maps) -> Map:
    """Mean power per mode."""
    return mode_powers(maps, torch.zeros_like(maps[0])).diagonal().real.permute(2, 0, 1).float()
