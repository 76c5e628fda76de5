"""PQMass keeps its level, sees a shift, and leaves NumPy's random numbers as they were."""

import numpy as np
import pytest

from ood_core.errors import TargetError
from ood_core.metrics.pqmass import pqmass
from ood_core.numerics.random import Root
from tests.strategies import randn

ROOT = Root.of("pqmass")


def test_its_level_and_its_power() -> None:
    """Of 40 tests of one law at most 6 reject at 0.05: more have a probability of 0.003."""
    pairs = [(randn(100, 4, seed=i), randn(80, 4, seed=100 + i)) for i in range(40)]
    p = [pqmass(a, b, ROOT.child(str(i))) for i, (a, b) in enumerate(pairs)]
    assert sum(value <= 0.05 for value in p) <= 6
    shifted = [pqmass(a, b + 1, ROOT.child(str(i))) for i, (a, b) in enumerate(pairs[:10])]
    assert max(shifted) < 0.05


def test_it_is_a_function_of_its_root_and_leaves_no_trace() -> None:
    a, b = randn(60, 3, seed=1), randn(60, 3, seed=2)
    before = np.random.get_state()[1].copy()
    assert pqmass(a, b, ROOT) == pqmass(a, b, ROOT)
    assert np.array_equal(before, np.random.get_state()[1])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(TargetError, match="got 49 rows in both sets.*expected at least 50"):
        pqmass(randn(20, 3, seed=1), randn(29, 3, seed=2), ROOT)
    with pytest.raises(TargetError, match="4 in the smaller one; expected at least 50 and 10"):
        pqmass(randn(4, 3, seed=1), randn(320, 3, seed=2), ROOT)


@pytest.mark.parametrize("few", [10, 20])
def test_a_small_set_beside_a_large_one(few: int) -> None:
    """As of few held-out maps and many samples: cells that all come from one set leave some."""
    for seed in range(5):
        p = pqmass(randn(few, 3, seed=seed), randn(512, 3, seed=9), ROOT.child(str(seed)))
        assert 0 <= p <= 1
    assert pqmass(randn(few, 3, seed=1) + 3, randn(512, 3, seed=9), ROOT) < 0.05


def test_rows_that_are_all_one_are_not_told_apart() -> None:
    assert pqmass(randn(1, 3, seed=1).expand(30, 3), randn(1, 3, seed=1).expand(30, 3), ROOT) == 1
