"""Mixtures of Gaussians from few maps: clusters found by hard expectation-maximisation.

Target sets are rarely of one kind: bright and faint, smooth and noisy. Each cluster gets a law of
its own. Clusters start as equal groups in an order of the maps that is a function of the maps
alone. How many there are is asked for by the calibration, and found by the likelihood of left-out
maps for the prior.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Latents, Map, Maps, PerSample
from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.estimators.families import ANNULI_GRID, fit_family, likeliest, scored
from ood_core.estimators.gaussian import Law, estimate
from ood_core.estimators.moments import evenly
from ood_core.numerics.covariance import Covariance
from ood_core.numerics.random import SeedRange, Stream, normal, uniform

MIN_MEMBERS = 4
MAX_CLUSTERS = 6
ROUNDS = 10
COARSE = 64
SOUGHT = 2**21
"""Numbers of maps among which clusters of latents are sought, 170 maps of 3 x 64 x 64."""
STATIONARY_SHARE = 0.5
WHITE = 0.1
"""Standard deviation in model range that blurs the laws while maps choose their cluster, so that a
map is not tied to its cluster by the few modes that the cluster's own maps have left empty."""

Labels = Int[Tensor, " n"]
Weights = Float[Tensor, " k"]
Mixture = tuple[Weights, list[Law]]


@final
@dataclass(frozen=True, slots=True, eq=False)
class MixturePrior:
    """`sum_k weight_k N(mean_k, covariance_k)` with its held-out score."""

    weights: Weights
    laws: tuple[Law, ...]
    held_out_log_density: float

    @property
    def mean(self) -> Map:
        """Mean of the whole."""
        means = torch.stack([mean for mean, _ in self.laws])
        return (self.weights[:, None, None, None] * means).sum(dim=0)

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{len(self.laws)} clusters"

    def sample(self, seeds: SeedRange, attempt: int = 0) -> Latents:
        """Draw one latent per seed; attempt `a` of a sample has numbers of its own."""
        white = normal(seeds, self.laws[0][0].shape, attempt, Stream.LATENT)
        rank = max(covariance.rank for _, covariance in self.laws)
        factors = normal(seeds, (rank,), attempt, Stream.FACTOR)
        members = self.members(seeds, attempt)
        latents = torch.empty_like(white)
        for number, (mean, covariance) in enumerate(self.laws):
            rows = torch.nonzero(members == number)[:, 0]
            some = covariance.colour(white[rows], factors[rows, : covariance.rank])
            latents[rows] = mean + some
        return latents

    def log_density(self, latents: Latents) -> PerSample:
        """Log density per latent, natural units."""
        return mixture_log_density(latents, self.weights, self.laws)

    def members(self, seeds: SeedRange, attempt: int = 0) -> Labels:
        """Return which law each sample is drawn from."""
        edges = self.weights.double().cumsum(0)[:-1]
        drawn = uniform(seeds, 1, attempt, Stream.COMPONENT)[:, 0].contiguous()
        return torch.searchsorted(edges, drawn, right=True)


def fit_mixture(maps: Maps, n_clusters: int, symmetries: Sequence[Symmetry] = ()) -> Mixture:
    """Fit at most `n_clusters` groups of at least `MIN_MEMBERS` maps; return weights and laws."""

    def law(some: Maps) -> Law:
        return estimate(some, "spectral_low_rank", STATIONARY_SHARE, symmetries)

    by_variance = maps.flatten(1).var(dim=1).argsort()
    return _clusters(maps, n_clusters, by_variance, law, WHITE)


def fit_mixture_prior(maps: Maps, symmetries: Sequence[Symmetry] = ()) -> MixturePrior:
    """Fit stationary laws to as many clusters as left-out maps ask for, means shrunk.

    Clusters are sought from two starts: by the maps' variance, and along their first principal
    component. The likelier one is kept. Among many or large maps they are sought on some of them,
    at `COARSE` pixels a side; then all maps choose their cluster, and laws are of whole maps.

    Raises:
        PriorUnderdetermined: fewer maps than a stationary law needs.
    """
    share = ANNULI_GRID[likeliest(maps, "spectral", symmetries)[0]]

    def law(some: Maps) -> Law:
        return fit_family(some, "spectral", symmetries).at(share)

    def fitted(some: Maps, n_clusters: int) -> Mixture:
        coarse = _coarse(some)
        few = evenly(coarse, SOUGHT)
        found = _likeliest_start(few, n_clusters, law)
        return found if few is some else _laws(some, nearest(coarse, found, 0.0), law)

    few = evenly(_coarse(maps), SOUGHT)
    n_clusters, score = _likeliest_number(few, fitted)
    weights, laws = fitted(maps, n_clusters)
    if few is not maps:
        score = _held_out(maps, fitted, n_clusters)
    return MixturePrior(weights, tuple(laws), score)


def _likeliest_start(maps: Maps, n_clusters: int, law: Callable[[Maps], Law]) -> Mixture:
    starts = [maps.flatten(1).var(dim=1).argsort(), _along_first_component(maps)]
    found = [_clusters(maps, n_clusters, start, law, 0.0) for start in starts[:n_clusters]]
    return max(found, key=lambda mixture: float(mixture_log_density(maps, *mixture).mean()))


def _coarse(maps: Maps) -> Maps:
    """Maps averaged over blocks of pixels down to about `COARSE` a side; small ones themselves."""
    block = min(maps.shape[-2:]) // COARSE
    return F.avg_pool2d(maps, block) if block > 1 else maps


def mixture_log_density(
    maps: Maps, weights: Weights, laws: Sequence[Law], white: float = 0.0
) -> PerSample:
    """Log density per map of the mixture, all laws blurred by white noise."""
    return torch.logsumexp(_joint(maps, weights, laws, white), dim=0)


def nearest(maps: Maps, mixture: Mixture, white: float) -> Labels:
    """Return the law under which each map is likeliest, both blurred."""
    return torch.cat(
        [_joint(block, *mixture, white).argmax(dim=0) for block in maps.split(len(scored(maps)))]
    )


def nearest_cluster(maps: Maps, weights: Weights, laws: list[Law]) -> Labels:
    """Return the law under which each map is likeliest, both blurred by `WHITE`."""
    return nearest(maps, (weights, laws), WHITE)


def _joint(
    maps: Maps, weights: Weights, laws: Sequence[tuple[Map, Covariance]], white: float
) -> Float[Tensor, "k n"]:
    scores = [
        log_density(maps, mean, covariance.plus_white(white**2) if white else covariance)
        + math.log(float(weight))
        for weight, (mean, covariance) in zip(weights, laws, strict=True)
    ]
    return torch.stack(scores)


def _likeliest_number(maps: Maps, fitted: Callable[[Maps, int], Mixture]) -> tuple[int, float]:
    """Number of clusters and its score per map and dimension, tried upwards until it falls."""
    most = max(1, min(MAX_CLUSTERS, len(maps) // (4 * MIN_MEMBERS)))
    best = 1, _held_out(maps, fitted, 1)
    for n_clusters in range(2, most + 1):
        score = _held_out(maps, fitted, n_clusters)
        if score <= best[1]:
            break
        best = n_clusters, score
    return best


def _held_out(maps: Maps, fitted: Callable[[Maps, int], Mixture], n_clusters: int) -> float:
    """Mean log density of left-out maps per dimension, over even and odd maps."""
    total = 0.0
    for parity in (0, 1):
        mixture = fitted(maps[parity::2], n_clusters)
        left = scored(maps[1 - parity :: 2])
        total += float(mixture_log_density(left, *mixture).mean()) / 2
    return total / maps[0].numel()


def _clusters(
    maps: Maps, n_clusters: int, order: Labels, law: Callable[[Maps], Law], white: float
) -> Mixture:
    """Move maps to their likeliest law until none moves, from equal groups in the given order."""
    n_clusters = max(1, min(n_clusters, len(maps) // (2 * MIN_MEMBERS)))
    labels = torch.empty(len(maps), dtype=torch.long)
    for cluster, rows in enumerate(order.tensor_split(n_clusters)):
        labels[rows] = cluster
    for _ in range(ROUNDS):
        mixture = _laws(maps, labels, law)
        moved = nearest(maps, mixture, white)
        if bool((moved == labels).all()):
            break
        labels = moved
    return _laws(maps, labels, law)


def _laws(maps: Maps, labels: Labels, law: Callable[[Maps], Law]) -> Mixture:
    counts = torch.bincount(labels)
    kept = [k for k in range(len(counts)) if counts[k] >= MIN_MEMBERS]
    if not kept:  # fewer maps than one cluster needs: all maps are one cluster
        return torch.ones(1), [law(maps)]
    weights = counts[kept].float()
    return weights / weights.sum(), [law(maps[labels == k]) for k in kept]


def _along_first_component(maps: Maps) -> Labels:
    """Order of the maps along the direction in which they spread most, from the Gram matrix."""
    residuals = (maps - maps.mean(dim=0)).flatten(1)
    leading: Tensor = torch.linalg.eigh((residuals @ residuals.T).double())[1][:, -1]
    return leading.argsort()
