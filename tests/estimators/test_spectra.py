"""Powers per mode, and the leading modes that stand for a large sample covariance."""

import numpy as np
import pytest
import torch

from ood_core.estimators.gaussian import estimate, fit_truncated, symmetric_mean
from ood_core.estimators.spectra import mode_powers
from tests.oracles import gaussian
from tests.strategies import randn


@pytest.mark.parametrize("shape", [(1, 6, 6), (2, 5, 5)])
def test_powers_are_those_of_the_transform(shape: tuple[int, int, int]) -> None:
    maps = randn(3, *shape, seed=1).float()
    modes = np.fft.fft2(maps.double().numpy(), norm="ortho")
    expected = np.einsum("nayx,nbyx->abyx", modes, modes.conj()) / len(modes)
    found = mode_powers(maps, torch.zeros(shape))
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)  # transforms in float32


def test_all_modes_are_the_sample_covariance_and_few_keep_its_trace() -> None:
    maps = randn(6, 1, 6, 6, seed=12).float()
    mean, law = fit_truncated(maps, ("flip",))(0.3)
    _, exact = estimate(maps, "spectral_low_rank", 0.3, ("flip",))
    expected = gaussian.dense(exact.apply, (1, 6, 6))
    # With room for all modes the rest is the floor of the spectrum, 1e-4 of its mean.
    np.testing.assert_allclose(gaussian.dense(law.apply, (1, 6, 6)), expected, atol=2e-2)
    torch.testing.assert_close(mean, symmetric_mean(maps, ("flip",)))
    assert law.trace() == pytest.approx(exact.trace(), rel=0.02)
