"""Piecewise-linear partitions of unity: over wavenumbers, and over the brightness of pixels."""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.numerics.covariance import wavenumbers

BRIGHTNESS = (0.0, 0.3, 0.8, 0.95, 0.99)
"""Quantiles of a smoothed map at which bins of brightness are centred; the faint sky is most."""


def band_knots(y: int, x: int, bands: int) -> Float[Tensor, " bands"]:
    """Band centres from zero to the corner of Fourier space, denser at low wavenumber."""
    top = float(wavenumbers(y, x).max())
    return top * torch.linspace(0, 1, bands) ** 1.5


def hat_functions(knots: Float[Tensor, " bands"], y: int, x: int) -> Float[Tensor, "bands y x"]:
    """Piecewise-linear partition of unity over `|k|`, one hat per knot."""
    radius = wavenumbers(y, x).clamp(max=float(knots[-1]))
    above = torch.searchsorted(knots, radius.contiguous()).clamp(1, len(knots) - 1)
    share = (radius - knots[above - 1]) / (knots[above] - knots[above - 1])
    hats = torch.zeros(len(knots), y, x)
    hats.scatter_(0, (above - 1)[None], (1 - share)[None])
    hats.scatter_add_(0, above[None], share[None])
    return hats


def brightness_edges(maps: Maps) -> Float[Tensor, " bins"]:
    """The quantiles `BRIGHTNESS` of all pixels."""
    order = maps.flatten().sort().values
    return order[[min(int(q * len(order)), len(order) - 1) for q in BRIGHTNESS]]


def brightness_hats(maps: Maps, edges: Float[Tensor, " bins"]) -> Float[Tensor, "bins n c y x"]:
    """Piecewise-linear partition of unity over values, one hat per edge, constant beyond them.

    Of equal edges one takes all.
    """
    below, above = edges[:-1], edges[1:]
    width = (above - below).clamp_min(1e-6)
    shape = (-1, 1, 1, 1, 1)
    rises = ((maps - below.view(shape)) / width.view(shape)).clamp(0, 1)
    ends = torch.ones_like(rises[:1]), torch.zeros_like(rises[:1])
    return torch.cat([ends[0], rises]) - torch.cat([rises, ends[1]])
