"""Sliced Wasserstein: against SciPy's along every direction, its level, its power, refusals."""

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from ood_core.errors import TargetError
from ood_core.metrics.sliced import DIRECTIONS, sliced_wasserstein
from ood_core.numerics.random import Root
from tests.strategies import randn

ROOT = Root.of("sliced")


def test_it_is_the_mean_of_scipys_distances() -> None:
    a, b = randn(30, 3, seed=1), randn(21, 3, seed=2) * 2
    toward = ROOT.child("directions").generator().standard_normal((3, DIRECTIONS))
    toward /= np.linalg.norm(toward, axis=0)
    sets = (x.double().numpy() @ toward for x in (a, b))
    known = np.mean(
        [wasserstein_distance(*pair) for pair in zip(*(s.T for s in sets), strict=True)]
    )
    assert sliced_wasserstein(a, b, ROOT).value == pytest.approx(known, rel=1e-12)


def test_a_shift_moves_all_mass_as_far_as_it_shows_along_a_direction() -> None:
    """`E |u_1| = Gamma(f/2) / (pi^1/2 Gamma((f+1)/2))` = 1/2 for f = 3; spread (1/12)^1/2."""
    a = randn(40, 3, seed=1)
    found = sliced_wasserstein(a, a + torch.tensor([2.0, 0, 0]), ROOT)
    assert found.value == pytest.approx(1.0, abs=4 * 2 * (1 / 12 / DIRECTIONS) ** 0.5)


def test_its_level_and_its_power() -> None:
    """Of 40 tests of one law at most 6 reject at 0.05: more have a probability of 0.003."""
    pairs = [(randn(50, 4, seed=i), randn(40, 4, seed=100 + i)) for i in range(40)]
    p = [sliced_wasserstein(a, b, ROOT.child(str(i))).p_value for i, (a, b) in enumerate(pairs)]
    assert sum(value <= 0.05 for value in p) <= 6
    for i, (a, b) in enumerate(pairs[:5]):
        assert sliced_wasserstein(a, b * 2, ROOT.child(str(i))).p_value == 1 / 500


def test_one_row_is_refused() -> None:
    with pytest.raises(TargetError, match="got 1 rows in a set; expected at least 2"):
        sliced_wasserstein(randn(1, 3, seed=1), randn(9, 3, seed=2), ROOT)
