"""The one-point distribution of pixels: quantiles, cumulative distribution, Wasserstein-1.

For distributions on the line the Wasserstein-1 distance is the area between the cumulative
distributions, `W1 = integral |F_a(v) - F_b(v)| dv` (Vallender 1974), in units of the pixel value.
Channels are separate distributions; distances are averaged over them.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps

MAX_PIXELS = 2_000_000  # per channel, read at an even stride, when edges are laid


def quantiles(maps: Maps, levels: Float[Tensor, " q"]) -> Float[Tensor, "c q"]:
    """Return the pooled pixel value below which the fraction `level` lies, linear in between."""
    ordered = _pooled(maps).sort(dim=-1).values
    place = levels.double().clamp(0, 1) * (ordered.shape[-1] - 1)
    below, above = place.floor().long(), place.ceil().long()
    part = place - below
    return ordered[:, below] * (1 - part) + ordered[:, above] * part


def uniform_edges(maps: Maps, bins: int, tail: float = 5e-4) -> Float[Tensor, "c edges"]:
    """Return `bins + 1` even edges per channel between the `tail` and `1 - tail` quantiles."""
    low, high = quantiles(maps, torch.tensor([tail, 1 - tail])).unbind(-1)
    # A constant field still needs bins of some width.
    high = torch.maximum(high, low + 1e-6 * low.abs().clamp(min=1))
    return low[:, None] + (high - low)[:, None] * torch.linspace(0, 1, bins + 1).double()


def cumulative(maps: Maps, edges: Float[Tensor, "c edges"]) -> Float[Tensor, "n c edges"]:
    """Return the fraction of a map's pixels at or below every edge."""
    pixels = _sorted(maps.flatten(-2)).double()
    at = edges.expand(len(maps), *edges.shape).contiguous()
    return torch.searchsorted(pixels, at, right=True) / pixels.shape[-1]


def _sorted(values: Float[Tensor, "n c pixels"]) -> Float[Tensor, "n c pixels"]:
    """Rising rows; on a CPU NumPy sorts with vector instructions, many times as fast as torch."""
    if values.device.type != "cpu":
        return values.sort(dim=-1).values
    return torch.from_numpy(np.sort(values.numpy(), axis=-1))


def own_units(maps: Maps) -> Maps:
    """Bring every map and channel to mean 0 and standard deviation 1; a constant one to 0."""
    own = maps.double()
    own = own - own.mean((-2, -1), keepdim=True)
    spread = own.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(spread > 0, own / spread, 0)


def cumulative_distance(
    a: Float[Tensor, "n c edges"], b: Float[Tensor, "m c edges"], edges: Float[Tensor, "c edges"]
) -> float:
    """Return W1 between pooled distributions from rows of `cumulative`, by the trapezium rule."""
    gap = (a.mean(0) - b.mean(0)).abs().double()
    return float(torch.trapezoid(gap, edges.double(), dim=-1).mean())


def _pooled(maps: Maps) -> Float[Tensor, "c pixels"]:
    pixels = maps.transpose(0, 1).flatten(1)
    stride = max(1, -(-pixels.shape[1] // MAX_PIXELS))
    return pixels[:, ::stride].double()
