"""What hypothesis draws: shapes, covariances, schedules, splits. Seeds are fixed, no deadlines."""

import math
from collections.abc import Sequence

import torch
from hypothesis import settings
from hypothesis import strategies as st

from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Dense, Diagonal, LowRank, Stationary

repeatable = settings(derandomize=True, deadline=None, max_examples=25, database=None)

seeds = st.integers(0, 2**31 - 1)
roots = st.integers(0, 2**64 - 1)
shapes = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(2, 5))


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Standard normals in float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def diagonal(shape: Sequence[int], seed: int) -> Diagonal:
    """Positive variances, within a factor of about 50."""
    return Diagonal((0.7 * randn(*shape, seed=seed)).exp())


def stationary(shape: Sequence[int], seed: int) -> Stationary:
    """Even powers, `P(k) = P(-k)`, within a factor of about 50."""
    log = randn(*shape, seed=seed)
    mirrored = torch.roll(log.flip(-2, -1), (1, 1), (-2, -1))
    return Stationary((0.5 * (log + mirrored)).exp())


def low_rank(shape: Sequence[int], seed: int, rank: int = 3) -> LowRank:
    """A diagonal or stationary part and some factors."""
    base = (diagonal, stationary)[seed % 2](shape, seed)
    return LowRank(base, randn(rank, *shape, seed=seed + 1))


def dense(shape: Sequence[int], seed: int) -> Dense:
    """A product of a matrix and its transpose, and the unit matrix."""
    pixels = math.prod(shape)
    some = randn(pixels, pixels, seed=seed) / pixels**0.5
    return Dense(some @ some.T + 0.1 * torch.eye(pixels, dtype=torch.float64))


COVARIANCES = {
    "dense": dense,
    "diagonal": diagonal,
    "stationary": stationary,
    "low_rank": low_rank,
}


def geometric_schedule(points: int, low: float = 0.05, high: float = 15.0) -> NoiseSchedule:
    """Variance-preserving schedule whose `sigma/alpha` is geometric over `points` indices."""
    steps = torch.linspace(0, 1, points, dtype=torch.float64)
    ratio = low * (high / low) ** steps
    alpha = 1 / torch.sqrt(1 + ratio**2)
    return NoiseSchedule(alpha, alpha * ratio)


@st.composite
def schedules(draw: st.DrawFn) -> NoiseSchedule:
    """Variance-preserving schedules from random betas."""
    betas = draw(st.lists(st.floats(1e-4, 0.3), min_size=3, max_size=60))
    bar = torch.cumprod(1 - torch.tensor(betas, dtype=torch.float64), 0)
    return NoiseSchedule.variance_preserving(bar)


@st.composite
def splits(draw: st.DrawFn, most: int = 24) -> tuple[int, list[int]]:
    """A count and the ascending cuts of one of its splits (parts may be empty)."""
    n = draw(st.integers(0, most))
    cuts = draw(st.lists(st.integers(0, n), max_size=6))
    return n, sorted([0, *cuts, n])
