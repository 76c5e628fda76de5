"""Covariances and residuals under symmetry groups have no bias."""

import math

import pytest
import torch

from ood_core.estimators.gaussian import estimate
from ood_core.estimators.moments import unbiased_residuals
from ood_core.numerics.symmetry import orbit

GROUPS = [(), ("flip",), ("flip", "rotate90"), ("translate",)]


def white(n: int, seed: int, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, side, side, generator=generator)


@pytest.mark.parametrize("symmetries", GROUPS)
@pytest.mark.parametrize("n", [2, 8])
def test_the_power_of_white_maps_is_one_whatever_the_group(symmetries: tuple, n: int) -> None:
    maps = [white(n, seed) for seed in range(60)]
    stationary = [estimate(x, "spectral_low_rank", 1.0, symmetries)[1].trace() / 256 for x in maps]
    residuals = [torch.cat(orbit(unbiased_residuals(x, symmetries), symmetries)) for x in maps]
    powers = [float((some**2).mean()) for some in residuals]
    # A mean power of n maps of 256 pixels has a variance of 2 / (256 (n - 1)) at most.
    error = (2 / (256 * (n - 1) * len(maps))) ** 0.5
    for values in (stationary, powers):
        assert abs(sum(values) / len(maps) - 1) < 5 * error


def test_without_symmetries_residuals_are_those_of_n_minus_one() -> None:
    x = white(5, 2)
    expected = (x - x.mean(0)) * math.sqrt(5 / 4)
    torch.testing.assert_close(unbiased_residuals(x, ()), expected)
