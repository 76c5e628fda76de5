"""What a few latents say of their mean: its norm without bias, and residuals about it.

The mean of `n` maps in `d` dimensions carries noise of squared norm `sigma^2 d / n`, which for
latents is most of what is seen: its raw squared norm is 14 times that of the true mean at n = 2 and
1.4 times at n = 64 (`d = 196,608`, a mean of norm 82).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.numerics.symmetry import invariant

SCORED = 2**23
"""Most numbers of maps that a distribution is scored on at once, 42 maps of 3 x 256 x 256; of many
large left-out maps some say how likely they are as well as all."""


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

    @property
    def description(self) -> str:
        """A few words for people, empty where the mean is identified."""
        return "" if self.identified else f"mean not identified: n = {self.n} < {self.needed:.0f}"


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


def evenly(maps: Maps, most: int) -> Maps:
    """Evenly spaced maps of at most `most` numbers together; few ones themselves."""
    step = -(-maps.numel() // most)
    return maps[::step] if step > 1 else maps
