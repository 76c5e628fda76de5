"""Sliced Wasserstein distance of two sets of features, with an exact p-value.

    SW = E_u [ int |F_a(x) - F_b(x)| dx ],   F the distribution functions of rows along u

over random directions `u` (Rabin et al. 2012; Bonneel et al. 2015): along every direction the mean
distance that mass is moved (Wasserstein-1). It weighs tails that the energy distance hardly sees.
The p-value compares it with the same under exchanged labels, `(1 + number as large) / (1 + B)`.
"""

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import Discrepancy
from ood_core.numerics.random import Root

DIRECTIONS, PERMUTATIONS = 128, 499
BATCH = 8  # directions at once, which bounds the memory


def sliced_wasserstein(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], root: Root) -> Discrepancy:
    """Compare two sets, in units of the features.

    Raises:
        TargetError: If a set has less than 2 rows.
    """
    fewest = min(len(a), len(b))
    if fewest < 2:
        raise TargetError(f"got {fewest} rows in a set; expected at least 2 to compare sets")
    rows = np.concatenate([x.double().cpu().numpy() for x in (a, b)])
    toward = root.child("directions").generator().standard_normal((rows.shape[1], DIRECTIONS))
    along = rows @ (toward / np.linalg.norm(toward, axis=0))
    weights = np.repeat([1 / len(a), -1 / len(b)], [len(a), len(b)])
    rng = root.child("labels").generator()
    divisions = np.stack([weights, *(rng.permutation(weights) for _ in range(PERMUTATIONS))])
    parts = np.array_split(along, -(-DIRECTIONS // BATCH), axis=1)
    found = np.sum([_moved(part, divisions) for part in parts], axis=0) / DIRECTIONS
    as_large = int((found[1:] >= found[0] * (1 - 1e-12)).sum())
    return Discrepancy(float(found[0]), (1 + as_large) / (1 + PERMUTATIONS))


def _moved(along: NDArray[np.float64], divisions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Wasserstein-1 of every division of the rows, summed over directions (columns)."""
    order = along.argsort(axis=0)
    steps = np.diff(np.take_along_axis(along, order, axis=0), axis=0)
    gaps = divisions[:, order].cumsum(axis=1)[:, :-1]  # F_a - F_b between neighbours
    return np.asarray(np.einsum("prd,rd->p", np.abs(gaps), steps))
