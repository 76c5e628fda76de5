"""Clusters of targets, each with a Gaussian of its own, by hard expectation-maximisation.

Target sets are rarely of one kind: bright and faint, smooth and noisy. Clusters start as equal
groups in the order of the maps' variance, so that they are a function of the maps alone.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.estimators.gaussian import Gaussian, estimate
from ood_core.estimators.moments import SCORED, evenly

MIN_MEMBERS = 4
ROUNDS = 10
STATIONARY_SHARE = 0.5
WHITE = 0.1
"""Standard deviation in model range that blurs the distributions while maps choose their cluster,
so that a map is not tied to its cluster by the few modes that the cluster's own maps have left
empty."""

Labels = Int[Tensor, " n"]
Weights = Float[Tensor, " k"]
Mixture = tuple[Weights, list[Gaussian]]


def fit_mixture(maps: Maps, n_clusters: int, symmetries: Sequence[Symmetry] = ()) -> Mixture:
    """Fit at most `n_clusters` groups of at least `MIN_MEMBERS` maps; return weights and Gaussians.

    Maps move to their likeliest distribution until none moves.
    """
    n_clusters = max(1, min(n_clusters, len(maps) // (2 * MIN_MEMBERS)))
    labels = torch.empty(len(maps), dtype=torch.long)
    by_variance = maps.flatten(1).var(dim=1).argsort()
    for cluster, rows in enumerate(by_variance.tensor_split(n_clusters)):
        labels[rows] = cluster
    for _ in range(ROUNDS):
        moved = nearest_cluster(maps, *_laws(maps, labels, symmetries))
        if bool((moved == labels).all()):
            break
        labels = moved
    return _laws(maps, labels, symmetries)


def nearest_cluster(maps: Maps, weights: Weights, gaussians: Sequence[Gaussian]) -> Labels:
    """Return the distribution under which each map is likeliest, both blurred by `WHITE`."""
    blurred = [(mean, covariance.plus_white(WHITE**2)) for mean, covariance in gaussians]
    shares = [math.log(float(weight)) for weight in weights]
    found = []
    for block in maps.split(len(evenly(maps, SCORED))):
        scores = [
            log_density(block, *gaussian) + s for gaussian, s in zip(blurred, shares, strict=True)
        ]
        found.append(torch.stack(scores).argmax(dim=0))
    return torch.cat(found)


def _laws(maps: Maps, labels: Labels, symmetries: Sequence[Symmetry]) -> Mixture:
    def fitted(some: Maps) -> Gaussian:
        return estimate(some, "spectral_low_rank", STATIONARY_SHARE, symmetries)

    counts = torch.bincount(labels)
    kept = [k for k in range(len(counts)) if counts[k] >= MIN_MEMBERS]
    if not kept:  # fewer maps than one cluster needs: all maps are one cluster
        return torch.ones(1), [fitted(maps)]
    weights = counts[kept].float()
    return weights / weights.sum(), [fitted(maps[labels == k]) for k in kept]
