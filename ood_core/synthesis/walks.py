"""Ways between latents on their sphere: geodesics, and directions carried to other latents.

Do pairs of targets that differ in the same way also differ by the same direction?

Ramachandran et al. (AAAI 2024) say that geodesics of the same manipulation share attributes. Their
test is not known; this one is our own. Targets are put in order of a number, the attribute. Pairs
lead from the lowest third to the highest. The log map of every pair is transported to the Fréchet
mean of all latents, where directions can be compared:

    shared = mean cosine between the transported directions of different pairs

No latent is in two pairs, so that no end point is shared. The null distribution is that of the same
number for pairs of targets at random, one for all attributes. If attribute and latents are
independent, the lowest and the highest third are random ones, and the p-value is exact (Phipson &
Smyth 2010).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.errors import TargetError
from ood_core.numerics.sphere import (
    Points,
    coordinates,
    exp_map,
    frechet_mean,
    log_map,
    project,
    transport,
)


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


PERMUTATIONS = 999
MIN_TARGETS = 9  # targets: three pairs


@final
@dataclass(frozen=True, slots=True)
class Shared:
    """Mean cosine of pairs, the middle 95 % of it for random pairs, and the p-value."""

    pairs: int
    cosine: float
    null_low: float
    null_high: float
    p_value: float


def shared_directions(
    points: Points,
    attributes: Mapping[str, Float[np.ndarray, " n"]],
    rng: np.random.Generator,
    permutations: int = PERMUTATIONS,
) -> dict[str, Shared]:
    """Test for each attribute whether latents from its low to its high values share a direction.

    Raises:
        TargetError: fewer than `MIN_TARGETS` points.
    """
    if len(points) < MIN_TARGETS:
        raise TargetError(
            f"got {len(points)} latents; expected {MIN_TARGETS} or more to make pairs of"
        )
    inner, _ = coordinates(points)
    mean = frechet_mean(inner)[None]
    pairs, drawn = len(points) // 3, []
    for _ in range(permutations):
        some = rng.permutation(len(points))
        drawn.append(mean_cosine(inner, mean, some[:pairs], some[pairs : 2 * pairs]))
    null, shared = np.array(drawn), {}
    below, above = (float(value) for value in np.quantile(null, [0.025, 0.975]))
    for name, values in attributes.items():
        order = np.argsort(values, kind="stable")
        found = mean_cosine(inner, mean, order[:pairs], rng.permutation(order[-pairs:]))
        p_value = (1 + int((null >= found).sum())) / (1 + permutations)
        shared[name] = Shared(pairs, found, below, above, p_value)
    return shared


def mean_cosine(
    points: Points, at: Float[Tensor, "1 d"], starts: np.ndarray, ends: np.ndarray
) -> float:
    """Mean cosine between the directions of different pairs, all transported to one point."""
    first = points[torch.from_numpy(starts)]
    here = at.expand_as(first)
    moved = transport(log_map(first, points[torch.from_numpy(ends)]), first, here)
    unit = moved / moved.norm(dim=1, keepdim=True).clamp_min(1e-300)
    count = len(unit)
    return float((unit.sum(dim=0).square().sum() - count) / (count * (count - 1)))
