"""Estimators from few maps against their definitions, in dense matrices."""

import math
from pathlib import Path
from typing import cast, get_args

import numpy as np
import pytest
import torch

from ood_core.config.method import PriorKind
from ood_core.config.targets import Symmetry
from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.gaussian import GaussianPrior, band_spectrum, estimate, symmetric_mean
from ood_core.estimators.moments import SCORED, evenly
from ood_core.estimators.prior import PRIORS, RHO_GRID, fit_gaussian
from ood_core.estimators.spectra import SPECTRUM_FLOOR
from ood_core.numerics.covariance import Diagonal, LowRank, Stationary
from ood_core.numerics.random import SeedRange
from ood_core.numerics.symmetry import orbit
from ood_core.store.fitted import read_prior, write_prior
from ood_core.synthesis.latents import Interval, ShellGeometry
from tests.contracts.prior import PriorContract
from tests.oracles import gaussian
from tests.strategies import randn, stationary

DIHEDRAL: tuple[Symmetry, ...] = ("flip", "rotate90")
SHAPE = (1, 4, 4)


def maps(n: int, *shape: int, seed: int = 1) -> torch.Tensor:
    """Correlated draws around a mean that is not constant."""
    white = randn(n, *shape, seed=seed)
    return (stationary(shape, 7).colour(white, torch.empty(n, 0)) + randn(*shape, seed=8)).float()


KINDS = list(get_args(PriorKind))


def prior_of(kind: str) -> GaussianPrior:
    some = maps(7, 2, 3, 4)
    match kind:
        case "isotropic":
            return fit_gaussian(some, "isotropic")
        case "stationary":
            return GaussianPrior(*estimate(some, "spectral_low_rank", 1.0, ()), 1.0, 0.0)
        case _:
            return GaussianPrior(*estimate(some, "spectral_low_rank", 0.3, ("flip",)), 0.3, 0.0)


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind(PriorContract):
    @pytest.fixture
    def prior(self, kind: PriorKind) -> GaussianPrior:
        return fit_gaussian(maps(32, 2, 3, 4), kind, ("flip",))

    def test_what_is_stored_is_what_was_fitted(self, prior: GaussianPrior, tmp_path: Path) -> None:
        everywhere = Interval(-1e9, 1e9)
        write_prior(tmp_path / "prior.zarr.zip", prior, ShellGeometry(*[everywhere] * 3))
        again, _ = read_prior(tmp_path / "prior.zarr.zip")
        seeds = SeedRange(5, 0, 9)
        assert torch.equal(again.sample(seeds), prior.sample(seeds))
        assert again.held_out_log_density == prior.held_out_log_density


class TestIsotropic(PriorContract):
    @pytest.fixture
    def prior(self) -> GaussianPrior:
        return prior_of("isotropic")


class TestStationary(PriorContract):
    @pytest.fixture
    def prior(self) -> GaussianPrior:
        return prior_of("stationary")


class TestLowRank(PriorContract):
    @pytest.fixture
    def prior(self) -> GaussianPrior:
        return prior_of("low_rank")


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 5, 5), (3, 8, 6), (1, 9, 16)])
def test_band_spectrum_is_the_mean_over_annuli(shape: tuple[int, int, int]) -> None:
    residuals = maps(5, *shape)
    expected = gaussian.band_spectrum(residuals.double().numpy(), SPECTRUM_FLOOR)
    # Float32 transform and sums over up to 150 modes.
    np.testing.assert_allclose(band_spectrum(residuals).numpy(), expected, rtol=1e-5)


def test_band_spectrum_of_white_noise_is_its_variance() -> None:
    power = band_spectrum(3 * randn(400, 1, 16, 16).float())
    # An annulus holds at least the 4 modes at |k| = 1, 2 of them independent: 9 / sqrt(800) at
    # most; the zero mode alone is chi-squared with one degree: 9 sqrt(2 / 400).
    assert float((power - 9).abs().max()) < 5 * 9 * math.sqrt(2 / 400)
    assert float((power - 10).abs().mean()) > 0.5  # negative control


def test_family_is_the_stated_mixture_of_two_covariances() -> None:
    some, rho = maps(6, *SHAPE), 0.3
    mean, cov = estimate(some, "spectral_low_rank", rho, ())
    sample = np.cov(gaussian.flat(some).T)
    residual = (some - some.mean(0)).double().numpy() * math.sqrt(6 / 5)
    spectral = gaussian.circulant(gaussian.band_spectrum(residual, SPECTRUM_FLOOR))
    expected = (1 - rho) * sample + rho * spectral
    # Float32 parameters of order one.
    np.testing.assert_allclose(gaussian.dense(cov.apply, SHAPE), expected, atol=2e-5)
    torch.testing.assert_close(mean, some.mean(0))


def test_symmetrised_covariance_does_not_change_under_the_group() -> None:
    mean, cov = estimate(maps(5, *SHAPE), "spectral_low_rank", 0.2, DIHEDRAL)
    x = randn(2, *SHAPE, seed=9)
    for straight, image, turned in zip(
        orbit(cov.apply(x), DIHEDRAL), orbit(x, DIHEDRAL), orbit(mean[None], DIHEDRAL), strict=True
    ):
        torch.testing.assert_close(cov.apply(image), straight, rtol=0, atol=1e-5)
        torch.testing.assert_close(turned[0], mean, rtol=0, atol=1e-6)
    _, plain = estimate(maps(5, *SHAPE), "spectral_low_rank", 0.2, ())
    moved = plain.apply(orbit(x, DIHEDRAL)[1]) - orbit(plain.apply(x), DIHEDRAL)[1]
    assert float(moved.abs().max()) > 0.01  # negative control: nothing declared, nothing shared


def test_mean_under_translations_is_constant_per_channel() -> None:
    some = maps(5, 2, 4, 4)
    mean = symmetric_mean(some, ("translate",))
    torch.testing.assert_close(mean, some.mean((0, 2, 3))[:, None, None].expand(2, 4, 4))


def isotropic_bias(divide_by: int, n: int = 4, fits: int = 2000) -> float:
    """Deviation of the mean fitted variance from 1, in standard errors."""
    draws = randn(fits, n, 1, 2, 3, seed=10).float()
    fitted = []
    for batch in draws:
        _, cov = estimate(batch, "isotropic", 1.0, ())
        assert isinstance(cov, Diagonal)
        fitted.append(float(cov.variance[0, 0, 0]) * (n - 1) / divide_by)
    # A variance of (n - 1) d = 18 degrees of freedom spreads by sqrt(2 / 18).
    return abs(np.mean(fitted) - 1) / math.sqrt(2 / 18 / fits)


def test_isotropic_variance_is_unbiased() -> None:
    assert isotropic_bias(divide_by=3) < 5
    assert isotropic_bias(divide_by=4) > 5  # negative control: division by n


def test_names_and_table_agree() -> None:
    assert set(PRIORS) == set(get_args(PriorKind))


def test_an_entry_is_all_that_a_further_kind_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind that is not in the table is refused, and not fitted as another."""
    some, name = maps(8, *SHAPE), cast(PriorKind, "brand_new")
    with pytest.raises(ValueError, match="brand_new.*expected one of isotropic"):
        fit_gaussian(some, name)
    monkeypatch.setitem(PRIORS, name, PRIORS["isotropic"])
    same, seeds = fit_gaussian(some, "isotropic"), SeedRange(1, 0, 4)
    assert torch.equal(fit_gaussian(some, name).sample(seeds), same.sample(seeds))


@pytest.mark.parametrize("kind", KINDS)
def test_too_few_maps_are_refused_with_a_remedy(kind: PriorKind) -> None:
    with pytest.raises(PriorUnderdetermined, match=r"got 3 maps.*at least 4.*add targets"):
        fit_gaussian(maps(3, *SHAPE), kind)
    assert fit_gaussian(maps(4, *SHAPE), kind).mean.shape == SHAPE


@pytest.mark.parametrize("some", [torch.ones(8, 1, 16, 16), 1e30 * randn(8, 1, 16, 16).float()])
def test_equal_or_huge_latents_give_one_clear_error(some: torch.Tensor) -> None:
    with pytest.raises(PriorUnderdetermined, match="no finite likelihood"):
        fit_gaussian(some, "isotropic")


def test_a_score_that_is_no_number_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([math.nan, math.nan, 1.0, 1.0, math.inf, 0.0, *12 * [0.5]])
    monkeypatch.setattr("ood_core.estimators.prior.score", lambda *_: next(scores))
    found = fit_gaussian(maps(8, *SHAPE), "spectral_low_rank")
    assert (found.rho, found.held_out_log_density) == (RHO_GRID[1], 1.0)


def test_many_large_maps_are_scored_on_some() -> None:
    assert len(evenly(torch.zeros(10, 1, 2, 2), SCORED)) == 10
    large = torch.zeros(1).expand(700, 3, 256, 256)
    assert 0 < evenly(large, SCORED).numel() <= SCORED


def test_white_maps_choose_the_stationary_part_and_a_plane_of_maps_the_sample() -> None:
    white = fit_gaussian(randn(20, 1, 8, 8).float(), "spectral_low_rank")
    assert white.rho >= 0.9
    assert isinstance(white.covariance, Stationary | LowRank)
    plane = torch.einsum("nk,kcyx->ncyx", randn(20, 2, seed=2), randn(2, 1, 8, 8, seed=3))
    thin = fit_gaussian((plane + 0.05 * randn(20, 1, 8, 8, seed=4)).float(), "spectral_low_rank")
    assert thin.rho <= 0.1
    assert {white.rho, thin.rho} <= set(RHO_GRID)


def test_held_out_score_is_the_mean_of_two_folds() -> None:
    some = maps(8, *SHAPE)
    fitted = fit_gaussian(some, "isotropic")
    scores = []
    for seen, left in ((some[0::2], some[1::2]), (some[1::2], some[0::2])):
        rows = gaussian.flat(seen)
        cov = rows.var(0, ddof=1).mean() * np.eye(16)
        scores.append(gaussian.log_density(gaussian.flat(left), rows.mean(0), cov).mean() / 16)
    assert fitted.held_out_log_density == pytest.approx(np.mean(scores), rel=1e-4)
