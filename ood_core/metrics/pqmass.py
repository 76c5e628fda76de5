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
from pqm import pqm_pvalue
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.numerics.random import Root

CELLS, PER_CELL = 100, 10  # at most, and at least so many rows in each on average
DIVISIONS = 21
FEWEST = 5 * PER_CELL  # rows of both sets together


def pqmass(a: Float[Tensor, "n f"], b: Float[Tensor, "m f"], root: Root) -> float:
    """Return the p-value of equal distributions.

    Raises:
        TargetError: there are fewer than `FEWEST` rows.
    """
    rows = len(a) + len(b)
    if rows < FEWEST:
        raise TargetError(f"got {rows} rows in both sets; expected at least {FEWEST} for PQMass")
    cells = min(CELLS, rows // PER_CELL)
    first, second = (x.double().cpu().numpy() for x in (a, b))
    with _seeded(root), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of empty cells, which the test leaves out
        found = [pqm_pvalue(first, second, num_refs=cells) for _ in range(DIVISIONS)]
    return min(1.0, 2 * float(np.median(found)))


@contextmanager
def _seeded(root: Root) -> Iterator[None]:
    """NumPy's global random numbers, which the package draws from, as a function of a root."""
    state = np.random.get_state()
    np.random.seed(int(root.generator().integers(2**32)))
    try:
        yield
    finally:
        np.random.set_state(state)
