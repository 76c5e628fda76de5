"""Mixtures of Gaussians from few maps: clusters found by hard expectation-maximisation.

Target sets are rarely of one kind: bright and faint, smooth and noisy. Each cluster gets a law of
the spectral + low-rank family. Clusters start as equal groups in order of the maps' variance, so
that the result is a function of the maps alone.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Map, Maps
from ood_core.diffusion.analytic import log_density
from ood_core.linalg import Covariance
from ood_core.priors.gaussian import estimate
from ood_core.specs import Symmetry

LEAST_MEMBERS = 4
ROUNDS = 10
STATIONARY_SHARE = 0.5
WHITE = 0.1
"""Standard deviation in model range that blurs the laws while maps choose their cluster, so that a
map is not tied to its cluster by the few modes that the cluster's own maps have left empty."""

Law = tuple[Map, Covariance]


def fit_mixture(
    maps: Maps, members: int, symmetries: Sequence[Symmetry] = ()
) -> tuple[Float[Tensor, " k"], list[Law]]:
    """Fit at most `members` clusters of at least `LEAST_MEMBERS` maps; return weights and laws."""
    members = max(1, min(members, len(maps) // (2 * LEAST_MEMBERS)))
    labels = torch.empty(len(maps), dtype=torch.long)
    by_variance = maps.flatten(1).var(dim=1).argsort()
    for cluster, rows in enumerate(by_variance.tensor_split(members)):
        labels[rows] = cluster
    for _ in range(ROUNDS):
        weights, laws = _laws(maps, labels, symmetries)
        moved = nearest_law(maps, weights, laws)
        if bool((moved == labels).all()):
            break
        labels = moved
    return _laws(maps, labels, symmetries)


def _laws(
    maps: Maps, labels: Int[Tensor, " n"], symmetries: Sequence[Symmetry]
) -> tuple[Float[Tensor, " k"], list[Law]]:
    counts = torch.bincount(labels)
    kept = [k for k in range(len(counts)) if counts[k] >= LEAST_MEMBERS]
    if not kept:  # fewer maps than one cluster needs: all maps are one cluster
        return torch.ones(1), [estimate(maps, "spectral_low_rank", STATIONARY_SHARE, symmetries)]
    laws = [
        estimate(maps[labels == k], "spectral_low_rank", STATIONARY_SHARE, symmetries) for k in kept
    ]
    weights = counts[kept].float()
    return weights / weights.sum(), laws


def nearest_law(maps: Maps, weights: Float[Tensor, " k"], laws: list[Law]) -> Int[Tensor, " n"]:
    """Return the law under which each map is likeliest, both blurred by `WHITE`."""
    scores = [
        log_density(maps, mean, covariance.plus_white(WHITE**2)) + math.log(float(weight))
        for weight, (mean, covariance) in zip(weights, laws, strict=True)
    ]
    return torch.stack(scores).argmax(dim=0)
