"""Exact denoisers against dense closed forms written apart from them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.diffusion.analytic import GaussianDenoiser, log_density
from ood_core.diffusion.schedule import NoiseSchedule
from tests.contracts.solver import SCHEDULE, mixture_denoiser
from tests.oracles import gaussian, mixture
from tests.oracles.mixture_denoiser import MixtureDenoiser
from tests.strategies import COVARIANCES, randn, repeatable, seeds, shapes

LINEAR = NoiseSchedule.linear()


@repeatable
@given(st.sampled_from(sorted(COVARIANCES)), shapes, seeds, st.integers(0, 999))
def test_gaussian_is_the_wiener_filter(
    kind: str, shape: tuple[int, int, int], seed: int, t: int
) -> None:
    mean, cov = randn(*shape, seed=seed), COVARIANCES[kind](shape, seed)
    denoiser = GaussianDenoiser(LINEAR, mean, cov)
    s, x_t = LINEAR.noise_to_signal(t), randn(3, *shape, seed=seed + 2)
    y = gaussian.flat(x_t / LINEAR.alpha[t])
    matrix = gaussian.dense(cov.apply, shape)
    exact = gaussian.posterior_mean(y, s, gaussian.flat(mean[None])[0], matrix)
    # y up to 1e3, condition of C + s^2 below 1e3: 1e3 * 1e3 * 1.1e-16 per rounding, some tens.
    np.testing.assert_allclose(gaussian.flat(denoiser(x_t, t)), exact, atol=1e-9)


def test_gaussian_with_the_level_squared_once_is_told_apart() -> None:
    shape = (1, 2, 3)
    mean, cov = randn(*shape), COVARIANCES["diagonal"](shape, 1)
    s, x_t = LINEAR.noise_to_signal(300), randn(3, *shape, seed=2)
    y = gaussian.flat(x_t / LINEAR.alpha[300])
    matrix = gaussian.dense(cov.apply, shape)
    wrong = gaussian.posterior_mean(y, np.sqrt(s), gaussian.flat(mean[None])[0], matrix)
    ours = gaussian.flat(GaussianDenoiser(LINEAR, mean, cov)(x_t, 300))
    assert np.abs(ours - wrong).max() > 0.01


@pytest.mark.parametrize("t", [0, 200, 500, 800, 1024])
def test_mixture_is_tweedies_formula(t: int) -> None:
    s, alpha = SCHEDULE.noise_to_signal(t), float(SCHEDULE.alpha[t])
    y = 3 * gaussian.flat(randn(50, 1, 1, 2, seed=t)) * max(1, s)
    ours = mixture_denoiser()(torch.from_numpy(y).reshape(-1, 1, 1, 2) * alpha, t)
    # Exponents up to 1e3 lose three digits of 1.1e-16; values up to 50.
    np.testing.assert_allclose(gaussian.flat(ours), mixture.posterior_mean(y, s), atol=1e-10)


def test_mixture_members_must_match_their_weights() -> None:
    members = mixture_denoiser().members
    with pytest.raises(ValueError, match="2 weights for 3 members"):
        MixtureDenoiser(SCHEDULE, torch.tensor([0.5, 0.5]), members)


@repeatable
@given(st.sampled_from(sorted(COVARIANCES)), shapes, seeds)
def test_log_density_is_that_of_the_dense_law(
    kind: str, shape: tuple[int, int, int], seed: int
) -> None:
    mean, cov = randn(*shape, seed=seed), COVARIANCES[kind](shape, seed)
    x = randn(4, *shape, seed=seed + 3)
    exact = gaussian.log_density(
        gaussian.flat(x), gaussian.flat(mean[None])[0], gaussian.dense(cov.apply, shape)
    )
    # Quadratic forms up to 1e4 with conditions below 1e3.
    np.testing.assert_allclose(log_density(x, mean, cov).numpy(), exact, rtol=1e-9, atol=1e-9)


def test_log_density_integrates_to_one() -> None:
    mean, cov = randn(1, 1, 2), COVARIANCES["diagonal"]((1, 1, 2), 3)
    axis = torch.linspace(-15, 15, 601, dtype=torch.float64)
    plane = torch.cartesian_prod(axis, axis).reshape(-1, 1, 1, 2)
    # The rectangle rule is spectrally exact for a Gaussian wider than its step of 0.05.
    total = float(log_density(plane, mean, cov).exp().sum()) * 0.05**2
    assert total == pytest.approx(1, abs=1e-9)
