"""Density of peaks and minima over height.

A peak is a pixel strictly above its eight neighbours; pixels on the edge of a map have too few and
are not searched. The density of peaks above a level is their number over the number of searched
pixels, so that it does not depend on the size of maps. Levels are in units of the map: bring maps
to units of sigma first.

The isotropic Gaussian field has `sigma_2^2 / (8 pi sqrt 3 sigma_1^2)` peaks per area, with
`sigma_j^2 = integral of (2 pi k)^2j P` (Longuet-Higgins 1957; over height: Bond & Efstathiou 1987,
appendix 1), and white noise `(1 - Phi(level)^9) / 9` per pixel.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.errors import TargetError
from ood_core.metrics.one_point import own_units

LEVELS = (-1.0, 0.0, 1.0, 2.0)  # in a map's own sigma


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
    above = [(peak & (inner > level)).double().mean((-2, -1)) for level in levels]
    return torch.stack(above, dim=-1)


def minimum_density(maps: Maps, levels: Float[Tensor, " levels"]) -> Float[Tensor, "n c levels"]:
    """Return the number of minima below each level per pixel."""
    return peak_density(-maps, -levels)


def peak_features(maps: Maps) -> Float[Tensor, "n f"]:
    """Return densities of peaks above `LEVELS` and of minima below `-LEVELS`, in own sigma."""
    levels, own = torch.tensor(LEVELS), own_units(maps)
    return torch.cat([peak_density(own, levels), minimum_density(own, -levels)], -1).flatten(1)
