"""What every prior promises: samples by seed alone, and the moments that it declares."""

import itertools

import numpy as np
import pytest
import torch

from ood_core.estimators.gaussian import GaussianPrior
from ood_core.numerics.random import SeedRange
from tests.oracles import gaussian

DRAWS = 4000


class PriorContract:
    """Subclass with `prior` on maps of few pixels (the oracle is dense)."""

    @pytest.fixture
    def prior(self) -> GaussianPrior:
        raise NotImplementedError

    @pytest.fixture
    def samples(self, prior: GaussianPrior) -> np.ndarray:
        return gaussian.flat(prior.sample(SeedRange(11, 0, DRAWS)))

    @pytest.fixture
    def law(self, prior: GaussianPrior) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance of the whole, dense."""
        dense = gaussian.dense(prior.covariance.apply, prior.mean.shape)
        return gaussian.flat(prior.mean[None])[0], dense

    @pytest.mark.parametrize("cuts", [(0, 12), (0, 1, 2, 12), (0, 5, 7, 12)])
    def test_a_range_is_its_parts(self, prior: GaussianPrior, cuts: tuple[int, ...]) -> None:
        whole = prior.sample(SeedRange(3, 0, 12))
        parts = [prior.sample(SeedRange(3, a, b)) for a, b in itertools.pairwise(cuts)]
        # Colouring is a matrix product or transform in float32; batch size may change its rounding.
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)

    def test_attempts_and_roots_have_numbers_of_their_own(self, prior: GaussianPrior) -> None:
        first = prior.sample(SeedRange(3, 0, 4))
        assert not torch.isclose(first, prior.sample(SeedRange(3, 0, 4), attempt=1)).any()
        assert not torch.isclose(first, prior.sample(SeedRange(4, 0, 4))).any()

    def test_the_mean_is_the_declared_one(
        self, samples: np.ndarray, law: tuple[np.ndarray, np.ndarray]
    ) -> None:
        mean, cov = law
        assert worst_mean(samples, mean, cov) < 5
        # Negative control: a shift of a fifth of a standard deviation is seen.
        assert worst_mean(samples, mean + 0.2 * np.sqrt(np.diag(cov)), cov) > 5

    def test_the_covariance_is_the_declared_one(
        self, samples: np.ndarray, law: tuple[np.ndarray, np.ndarray]
    ) -> None:
        mean, cov = law
        assert worst_covariance(samples, mean, cov) < 5
        assert worst_covariance(samples, mean, 1.2 * cov) > 5  # negative control

    def test_log_density_is_that_of_the_dense_law(
        self, prior: GaussianPrior, samples: np.ndarray, law: tuple[np.ndarray, np.ndarray]
    ) -> None:
        some = samples[:20]
        maps = torch.from_numpy(some).reshape(-1, *prior.mean.shape)
        ours = prior.log_density(maps)
        expected = gaussian.log_density(some, *law)
        # The parameters are float32, so that the law itself is known to 1e-7 of each of d terms.
        np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-5)


def worst_mean(samples: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """Largest deviation of the sample mean, in standard errors."""
    return float((np.abs(samples.mean(0) - mean) / np.sqrt(np.diag(cov) / len(samples))).max())


def worst_covariance(samples: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """Largest deviation of the sample covariance, in standard errors of the products themselves."""
    residual = samples - mean
    seen = residual.T @ residual / len(samples)
    error = np.sqrt(((residual**2).T @ residual**2 / len(samples) - seen**2) / len(samples))
    return float((np.abs(seen - cov) / error).max())
