"""Fréchet distance between sets of features; on log-scattering moments it is called FSD.

Gaussians with moments `(m_a, C_a)` and `(m_b, C_b)` are apart by
`|m_a - m_b|^2 + tr C_a + tr C_b - 2 tr (C_a^1/2 C_b C_a^1/2)^1/2` (Dowson & Landau 1982). With
centred rows `A`, `B` such that `C_a = A' A`, the last trace is the sum of the singular values of
`A B'`: no matrix root is taken, and singular covariances (fewer rows than features) need no care.

Features are whitened first by the spread of a reference set, so that the distance does not depend
on their units: centred, divided by their standard deviations, and rotated by the inverse root of
their correlation, which is shrunk towards the identity (Ledoit & Wolf 2004). The shrinkage is what
makes 64 reference rows of 100 features usable: directions that the reference does not span are
left at the scale of the others instead of being blown up. Features that do not vary in the
reference, up to the rounding of single precision, as those of a constant channel, are left out:
they have no scale. Pixel values of such a channel are compared all the same. The distance is biased
upwards for small sets, so compare it only at equal set sizes, as `ood_core.evaluation.evaluate`
does with split halves.

Moments of parts of a set merge to those of the whole, in any order and grouping, up to rounding in
float64. With counts `n`, means `m` and scatter matrices `S = sum (x - m)(x - m)'` of two parts
(Chan, Golub & LeVeque 1983),

    n = n_a + n_b,   m = m_a + d n_b / n,   S = S_a + S_b + d d' n_a n_b / n,   d = m_b - m_a
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf
from torch import Tensor

from ood_core.errors import TargetError

RESOLUTION = 1e-6  # of a feature: single precision, in which maps and features are stored
FLAT = 1e-3  # of the median spread: a feature flatter than this is not blown up further


@final
@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Number of rows, their mean, and the sum of outer products about it, float64."""

    count: int
    mean: Float[Tensor, " f"]
    scatter: Float[Tensor, "f f"]

    @classmethod
    def of(cls, rows: Float[Tensor, "n f"]) -> "Moments":
        """Return the moments of rows; those of no rows are the neutral element."""
        exact = rows.double()
        mean = exact.mean(0) if len(rows) else exact.new_zeros(exact.shape[1])
        centred = exact - mean
        return cls(len(rows), mean, centred.T @ centred)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        if not count:
            return self
        apart, part = other.mean - self.mean, other.count / count
        between = torch.outer(apart, apart) * (self.count * part)
        return Moments(count, self.mean + apart * part, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float[Tensor, "f f"]:
        """Unbiased covariance; 0 of a single row."""
        return self.scatter / max(self.count - 1, 1)


@final
@dataclass(frozen=True, slots=True, eq=False)
class Whitening:
    """Affine map that gives the reference set zero mean and about unit covariance."""

    mean: Float[Tensor, " f"]
    matrix: Float[Tensor, "f f"]

    @classmethod
    def fit(cls, reference: Float[Tensor, "n f"]) -> "Whitening":
        """Fit to the reference rows, with Ledoit-Wolf shrinkage of the correlation."""
        if len(reference) < 2:
            raise TargetError(f"got {len(reference)} reference rows; expected at least 2")
        rows = reference.double()
        mean, spread = rows.mean(0), rows.std(0)
        varies = spread > RESOLUTION * (1 + mean.abs())
        if not bool(varies.any()):
            return cls(mean, rows.new_zeros(len(mean), len(mean)))
        spread = spread.clamp(min=FLAT * float(spread[varies].median()))[varies]
        correlation, _ = ledoit_wolf(((rows - mean)[:, varies] / spread).numpy())
        values, vectors = torch.linalg.eigh(torch.from_numpy(correlation))
        root = vectors * values.clamp(min=1e-9).rsqrt() @ vectors.T
        matrix = rows.new_zeros(len(mean), len(mean))
        matrix[torch.outer(varies, varies)] = (root / spread[:, None]).flatten()
        return cls(mean, matrix)

    def __call__(self, features: Float[Tensor, "n f"]) -> Float[Tensor, "n f"]:
        """Whiten rows of features."""
        return (features.double() - self.mean) @ self.matrix


def frechet(
    a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], whitening: Whitening | None = None
) -> float:
    """Return the Fréchet distance of the Gaussians fitted to two sets of rows (squared length)."""
    if whitening is not None:
        a, b = whitening(a), whitening(b)
    return _apart(*_moments(a.double()), *_moments(b.double()))


def frechet_of_moments(a: Moments, b: Moments) -> float:
    """Return the same distance from moments, which may have been merged of many parts."""
    return _apart(a.mean, _root(a.covariance), b.mean, _root(b.covariance))


def _apart(mean_a: Tensor, root_a: Tensor, mean_b: Tensor, root_b: Tensor) -> float:
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    apart = (mean_a - mean_b).square().sum()
    distance = apart + root_a.square().sum() + root_b.square().sum() - 2 * shared
    return max(float(distance), 0.0)


def _root(covariance: Float[Tensor, "f f"]) -> Float[Tensor, "f f"]:
    """Return a factor `R` with `R' R` the covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    factor: Tensor = (vectors * values.clamp(min=0).sqrt()).T
    return factor


def _moments(
    rows: Float[Tensor, "n f"],
) -> tuple[Float[Tensor, " f"], Float[Tensor, "r f"]]:
    """Return the mean and a factor `R` of the covariance `R' R`, no taller than it need be."""
    mean = rows.mean(0)
    centred = (rows - mean) / max(len(rows) - 1, 1) ** 0.5
    if len(centred) > centred.shape[1]:
        centred = torch.linalg.qr(centred, mode="r").R
    return mean, centred
