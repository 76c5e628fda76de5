"""PQMass: do two sets share the cells about some of their members as one set would?

Space is divided into the Voronoi cells of random members of both sets, and the counts of the others
are compared by a chi-squared test (Lemos et al. 2024, arXiv 2402.04355; package `pqm`). One
division's p-value depends on the draw. Twice the median of several is a p-value whatever their
dependence (Rüger 1978; Vovk & Wang 2020).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from pqm import pqm_pvalue
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.numerics.random import Root

CELLS, PER_CELL = 100, 10  # at most, and at least so many rows in each on average
DIVISIONS = 21
FEWEST = 5 * PER_CELL  # rows of both sets together
LEFT = 3  # members of a set that must remain beside those that make cells, as `pqm` asks


def pqmass(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], root: Root) -> float:
    """Return the p-value of equal distributions.

    Raises:
        TargetError: there are fewer than `FEWEST` rows, or of either set fewer than `PER_CELL`.
    """
    rows, fewer = len(a) + len(b), min(len(a), len(b))
    if not enough(len(a), len(b)):
        raise TargetError(
            f"got {rows} rows in both sets and {fewer} in the smaller one; expected at least "
            f"{FEWEST} and {PER_CELL} for PQMass"
        )
    cells = min(CELLS, rows // PER_CELL, fewer - LEFT)  # by chance all may come from one set
    first, second = (x.double().cpu().numpy() for x in (a, b))
    with _seeded(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty cells, which the test leaves out
        found = [_divided(first, second, cells) for _ in range(DIVISIONS)]
    return min(1.0, 2 * float(np.median(found)))


def enough(a: int, b: int) -> bool:
    """Whether sets of these sizes can be compared."""
    return a + b >= FEWEST and min(a, b) >= PER_CELL


def _divided(a: NDArray[np.float64], b: NDArray[np.float64], cells: int) -> float:
    """The p-value of one division; 1 where all rows lie in one cell, which tells nothing apart."""
    try:
        return float(pqm_pvalue(a, b, num_refs=cells))
    except ValueError as error:
        if "one Voronoi cell" not in str(error):
            raise
        return 1.0


@contextmanager
def _seeded(root: Root) -> Iterator[None]:
    """NumPy's global random numbers, which the package draws from, as a function of a root."""
    state = np.random.get_state()
    np.random.seed(int(root.generator().integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(state)
