"""The one-point law of pixels: histogram, quantiles, cumulative distribution, Wasserstein distance.

For laws on the line the Wasserstein-1 distance is the area between the cumulative distributions,
`W1 = integral |F_a(v) - F_b(v)| dv` (Vallender 1974), in units of the pixel value. Channels are
separate laws; distances are averaged over them.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps

MAX_PIXELS = 2_000_000  # per channel, read at an even stride, when edges are laid


def standardised(maps: Maps, reference: Float[Tensor, "m c y x"]) -> Maps:
    """Return maps in units of sigma: minus mean, over standard deviation, of a reference's pixels.

    Both are pooled over the maps of the reference, per channel. A constant channel becomes 0 where
    it has the reference's value.
    """
    pixels = reference.transpose(0, 1).flatten(1).double()
    mean, spread = pixels.mean(1), pixels.std(1, correction=0)
    spread = torch.where(spread > 0, spread, 1.0)
    return (maps.double() - mean[:, None, None]) / spread[:, None, None]


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


def quantile_edges(maps: Maps, points: int = 1024) -> Float[Tensor, "c edges"]:
    """Return edges that follow the pooled law from its least to its greatest value.

    Even edges would put a heavy tail into a few bins; these resolve body and tail alike.
    """
    levels = torch.linspace(0, 1, points // 2)
    ends = quantiles(maps, torch.tensor([0.0, 1.0]))
    even = ends[:, :1] + (ends[:, 1:] - ends[:, :1]) * levels.double()
    return torch.cat([quantiles(maps, levels), even], dim=-1).sort(dim=-1).values


def histogram(maps: Maps, edges: Float[Tensor, "c edges"]) -> Float[Tensor, "n c bins"]:
    """Return the density of pixels per map on common edges; what lies outside is not counted."""
    pixels = maps.double().flatten(-2).sort(dim=-1).values
    at = edges.expand(len(maps), *edges.shape).contiguous()
    below = torch.searchsorted(pixels, at)
    return below.diff(dim=-1) / (pixels.shape[-1] * edges.diff(dim=-1))


def cumulative(maps: Maps, edges: Float[Tensor, "c edges"]) -> Float[Tensor, "n c edges"]:
    """Return the fraction of a map's pixels at or below every edge."""
    pixels = maps.double().flatten(-2).sort(dim=-1).values
    at = edges.expand(len(maps), *edges.shape).contiguous()
    return torch.searchsorted(pixels, at, right=True) / pixels.shape[-1]


def own_units(maps: Maps) -> Maps:
    """Bring every map and channel to mean 0 and standard deviation 1; a constant one to 0."""
    own = maps.double()
    own = own - own.mean((-2, -1), keepdim=True)
    spread = own.square().mean((-2, -1), keepdim=True).sqrt()
    return torch.where(spread > 0, own / spread, 0)


def cumulative_distance(
    a: Float[Tensor, "n c edges"], b: Float[Tensor, "m c edges"], edges: Float[Tensor, "c edges"]
) -> float:
    """Return W1 between pooled laws from rows of `cumulative`, by the trapezium rule."""
    gap = (a.mean(0) - b.mean(0)).abs().double()
    return float(torch.trapezoid(gap, edges.double(), dim=-1).mean())


def wasserstein(a: Maps, b: Float[Tensor, "m c y x"]) -> float:
    """Return the exact Wasserstein-1 distance of the pooled pixels of two sets of any sizes."""
    pixels_a, pixels_b = (m.double().transpose(0, 1).flatten(1).contiguous() for m in (a, b))
    values = torch.cat([pixels_a, pixels_b], dim=1).sort(dim=1).values
    fraction_a, fraction_b = (
        torch.searchsorted(p.sort(dim=1).values, values, right=True) / p.shape[1]
        for p in (pixels_a, pixels_b)
    )
    step = (fraction_a - fraction_b).abs()[:, :-1] * values.diff(dim=1)
    return float(step.sum(1).mean())


def _pooled(maps: Maps) -> Float[Tensor, "c pixels"]:
    pixels = maps.transpose(0, 1).flatten(1)
    stride = max(1, -(-pixels.shape[1] // MAX_PIXELS))
    return pixels[:, ::stride].double()
