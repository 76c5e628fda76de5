"""Fréchet distance and classifier test against known Gaussians."""

import pytest
import torch

from ood_core.errors import TargetError
from ood_core.metrics.distances import Whitening, frechet
from ood_core.metrics.two_sample import classifier_accuracy


def gaussian(n: int, f: int, seed: int = 0) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, f, generator=rng, dtype=torch.float64)


def exactly(rows: torch.Tensor, mean: torch.Tensor, root: torch.Tensor) -> torch.Tensor:
    """Rows whose sample mean and covariance are `mean` and `root' root` to rounding."""
    centred = rows - rows.mean(0)
    whitened: torch.Tensor = centred @ torch.linalg.inv(torch.linalg.cholesky(centred.T.cov()).T)
    return mean + whitened @ root


def test_frechet_of_two_known_gaussians() -> None:
    # Diagonal covariances: |m|^2 + sum (s_a - s_b)^2.
    spread_a, spread_b = torch.tensor([1.0, 2.0, 0.5]), torch.tensor([3.0, 2.0, 1.5])
    shift = torch.tensor([1.0, -2.0, 0.0]).double()
    a = exactly(gaussian(50, 3), torch.zeros(3).double(), spread_a.diag().double())
    b = exactly(gaussian(40, 3, seed=1), shift, spread_b.diag().double())
    assert frechet(a, b) == pytest.approx(5 + 4 + 0 + 1)


def test_frechet_of_covariances_that_do_not_commute() -> None:
    root_a, root_b = gaussian(4, 4, seed=2), gaussian(4, 4, seed=3)
    zero = torch.zeros(4).double()
    a, b = exactly(gaussian(60, 4), zero, root_a), exactly(gaussian(60, 4, seed=1), zero, root_b)
    cov_a, cov_b = root_a.T @ root_a, root_b.T @ root_b
    shared = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    expected = float(cov_a.trace() + cov_b.trace() - 2 * shared)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-8)


def test_frechet_is_zero_for_the_same_rows_even_with_fewer_rows_than_features() -> None:
    rows = gaussian(10, 30)
    assert frechet(rows, rows.flip(0)) == pytest.approx(0, abs=1e-9)


def test_whitening_is_blind_to_the_units_of_features() -> None:
    units = torch.logspace(-3, 3, 8).double()
    reference, a, b = gaussian(64, 8), gaussian(40, 8, seed=1), 1 + gaussian(40, 8, seed=2)
    plain = frechet(a, b, Whitening.fit(reference))
    scaled = frechet(a * units, b * units, Whitening.fit(reference * units))
    assert scaled == pytest.approx(plain, rel=1e-6)


def test_whitening_of_many_rows_gives_unit_covariance() -> None:
    rows = gaussian(20_000, 4) @ gaussian(4, 4, seed=5)
    torch.testing.assert_close(
        Whitening.fit(rows)(rows).T.cov(), torch.eye(4).double(), atol=0.02, rtol=0
    )


def test_whitening_does_not_blow_up_directions_that_few_rows_leave_empty() -> None:
    # 64 rows of 100 features: unshrunk, fresh rows would have unbounded whitened norms.
    whitening = Whitening.fit(gaussian(64, 100))
    fresh = whitening(gaussian(500, 100, seed=1))
    assert fresh.square().sum(1).mean() < 3 * 100


def test_whitening_survives_a_constant_feature_and_refuses_one_row() -> None:
    rows = gaussian(20, 3)
    rows[:, 1] = 4.0
    assert Whitening.fit(rows)(rows).isfinite().all()
    with pytest.raises(TargetError):
        Whitening.fit(rows[:1])


def test_the_classifier_is_at_chance_on_one_law_and_certain_on_two() -> None:
    a, b = gaussian(200, 10), gaussian(200, 10, seed=1)
    # Accuracy over 400 rows has a standard error of 0.025 at chance.
    assert abs(classifier_accuracy(a, b) - 0.5) < 5 * 0.025
    assert classifier_accuracy(a, b + 4) > 0.99


def test_the_classifier_is_balanced_between_sets_of_unequal_size() -> None:
    assert abs(classifier_accuracy(gaussian(400, 3), gaussian(40, 3, seed=1)) - 0.5) < 0.25
    with pytest.raises(TargetError):
        classifier_accuracy(gaussian(5, 3), gaussian(1, 3))
