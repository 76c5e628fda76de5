"""Ways between latents on their sphere: geodesics, and directions carried to other latents."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.numerics.sphere import exp_map, log_map, project, transport


def geodesic(latents: Latents, start: int, end: int, shares: Sequence[float]) -> Latents:
    """Points of the geodesic from one latent to another, with norms interpolated linearly.

    Returns:
        One latent per share of the way, `(len(shares), c, y, x)`.
    """
    points, norms = project(latents)
    along = log_map(points[[start]], points[[end]])
    ends = float(norms[start]), float(norms[end])
    return _points(latents, points[[start]], along, shares, ends)


def transported(
    latents: Latents, start: int, end: int, elsewhere: int, shares: Sequence[float]
) -> Latents:
    """The direction from `start` to `end`, carried to another latent, which keeps its norm."""
    points, norms = project(latents)
    along = log_map(points[[start]], points[[end]])
    carried = transport(along, points[[start]], points[[elsewhere]])
    ends = float(norms[elsewhere]), float(norms[elsewhere])
    return _points(latents, points[[elsewhere]], carried, shares, ends)


def _points(
    latents: Latents,
    origin: Float[Tensor, "1 d"],
    along: Float[Tensor, "1 d"],
    shares: Sequence[float],
    norms: tuple[float, float],
) -> Latents:
    found = [exp_map(origin, s * along) * ((1 - s) * norms[0] + s * norms[1]) for s in shares]
    return torch.cat(found).reshape(-1, *latents.shape[1:]).to(latents)
