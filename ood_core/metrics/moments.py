"""Count, mean and scatter of rows, mergeable: two parts give what the whole would have given.

With counts `n`, means `m` and scatter matrices `S = sum (x - m)(x - m)'` of two parts (Chan, Golub
& LeVeque 1983),

    n = n_a + n_b,   m = m_a + d n_b / n,   S = S_a + S_b + d d' n_a n_b / n,   d = m_b - m_a

so that parts may come in any order and grouping, and no row is needed twice. In exact arithmetic
merging is associative and commutative; in float64 it is to rounding.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor


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
