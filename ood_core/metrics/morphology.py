"""Minkowski functionals of excursion sets: area, boundary and connectivity of a map over a level.

For the set of points above a level, in an area `A` (Schmalzing & Buchert 1997; pixel area is 1)

    V0 = area / A,      V1 = length of the boundary / (4 A),      V2 = Euler characteristic / A

The Euler characteristic is the number of pieces minus the number of holes. All are counted on the
2 by 2 squares of neighbouring pixels, whose centres tile the inside of the map, so that its edge is
no boundary. `Q_j` is the fraction of squares with `j` pixels above the level, and `Q_2` is split
into neighbours and diagonals:

    length = pi/8 [(1 + 2^-1/2) (Q_1 + Q_3) + (1 + 2^1/2) Q_2n + 2 Q_2d]      per square
    Euler  = (Q_1 - Q_3) / 4                                                  per square

The first is Crofton's formula over lines in four directions: right for boundaries that point
everywhere, 5 % short for a square along the axes. The second is the mean of the counts with four
and with eight neighbours (Gray 1971), and changes sign when above and below change places.

The smooth isotropic Gaussian field has, at level `nu` in units of `sigma` (Tomita 1986), with
`g^2 = <|grad u|^2> / (2 sigma^2)`,

    V0 = erfc(nu / 2^1/2) / 2,    V1 = g/8 exp(-nu^2/2),    V2 = g^2 nu (2 pi)^-3/2 exp(-nu^2/2)

Density of peaks and minima over height.

A peak is a pixel strictly above its eight neighbours; pixels on the edge of a map have too few and
are not searched. The density of peaks above a level is their number over the number of searched
pixels, so that it does not depend on the size of maps. Levels are in units of the map: bring maps
to units of sigma first.

The isotropic Gaussian field has `sigma_2^2 / (8 pi sqrt 3 sigma_1^2)` peaks per area, with
`sigma_j^2 = integral of (2 pi k)^2j P` (Longuet-Higgins 1957; over height: Bond & Efstathiou 1987,
appendix 1), and white noise `(1 - Phi(level)^9) / 9` per pixel.
"""

from math import pi, sqrt

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError
from ood_core.metrics.one_point import own_units

THRESHOLDS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)  # in a map's own sigma


def minkowski(maps: Maps, levels: Float[Tensor, " levels"]) -> Float[Tensor, "n c 3 levels"]:
    """Return V0, V1 (per pixel) and V2 (per pixel area) above each level, in units of the map.

    Raises:
        TargetError: If maps are smaller than 2 by 2 pixels.
    """
    if min(maps.shape[-2:]) < 2:
        shape = tuple(maps.shape[-2:])
        raise TargetError(f"got maps of {shape} pixels; expected at least (2, 2)")
    return torch.stack([_of_set(maps > level) for level in levels], dim=-1)


def minkowski_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return V1 and V2 of maps above `THRESHOLDS`, each map and channel in units of its own sigma.

    V0, the area, is left out: the quantiles of pixels fix it.
    """
    return minkowski(own_units(maps), torch.tensor(THRESHOLDS))[:, :, 1:].flatten(1)


def _of_set(above: Tensor) -> Float[Tensor, "n c 3"]:
    first, second = above[..., :-1, :-1], above[..., :-1, 1:]
    third, fourth = above[..., 1:, :-1], above[..., 1:, 1:]
    count = first.byte() + second + third + fourth
    diagonal = (count == 2) & (first == fourth)
    one, two, three = (_mean(count == j) for j in (1, 2, 3))
    crossed = _mean(diagonal)
    length = (1 + sqrt(0.5)) * (one + three) + (1 + sqrt(2)) * (two - crossed) + 2 * crossed
    return torch.stack([_mean(above), pi / 32 * length, (one - three) / 4], dim=-1)


def _mean(mask: Bool[Tensor, "n c y x"]) -> Float[Tensor, "n c"]:
    """Share of pixels, counted in whole numbers."""
    return mask.sum((-2, -1), dtype=torch.int32).double() / mask[0, 0].numel()


PEAK_THRESHOLDS = (-1.0, 0.0, 1.0, 2.0)  # in a map's own sigma


def peak_density(maps: Maps, levels: Float[Tensor, " levels"]) -> Float[Tensor, "n c levels"]:
    """Return the number of peaks above each level per pixel.

    Raises:
        TargetError: If maps are smaller than 3 by 3 pixels.
    """
    if min(maps.shape[-2:]) < 3:
        shape = tuple(maps.shape[-2:])
        raise TargetError(f"got maps of {shape} pixels; expected at least (3, 3) to find peaks")
    inner = maps[..., 1:-1, 1:-1]
    height, width = inner.shape[-2:]
    peak = torch.ones_like(inner, dtype=torch.bool)
    for y in range(3):
        for x in range(3):
            if (y, x) != (1, 1):
                peak &= inner > maps[..., y : y + height, x : x + width]
    above = [_mean(peak & (inner > level)) for level in levels]
    return torch.stack(above, dim=-1)


def minimum_density(maps: Maps, levels: Float[Tensor, " levels"]) -> Float[Tensor, "n c levels"]:
    """Return the number of minima below each level per pixel."""
    return peak_density(-maps, -levels)


def peak_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return densities of peaks above and of minima below `PEAK_THRESHOLDS`, in own sigma."""
    levels, own = torch.tensor(PEAK_THRESHOLDS), own_units(maps)
    return torch.cat([peak_density(own, levels), minimum_density(own, -levels)], -1).flatten(1)
