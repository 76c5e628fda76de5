"""The whole run on a Gaussian base with foreign targets, against the exact answer.

The flow of a Gaussian base is affine, `z = J x + b`. Whatever its mean and covariance, targets that
go up and samples that come down the same grid end as the fitted family's distribution of `J C J^T`,
pulled back by `J^-1`. Where the family can express the targets' covariance, the base drops out.
"""

import math

import numpy as np
import pytest
import torch

from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode, invert
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import Ddim, last
from ood_core.estimators.gaussian import GaussianPrior, estimate
from ood_core.estimators.prior import fit_gaussian
from ood_core.estimators.spectra import SPECTRUM_FLOOR
from ood_core.numerics.covariance import Covariance, Diagonal, LowRank, Stationary
from ood_core.numerics.random import SeedRange, Stream, normal
from ood_core.synthesis.latent_samplers import PriorDraws
from ood_core.synthesis.latents import ATTEMPTS, Interval, ShellGeometry, draw
from tests.oracles import gaussian
from tests.strategies import low_rank, randn, stationary

LINEAR = NoiseSchedule.linear()
GRID = LINEAR.log_snr_grid(19, 700)
LEVELS = [LINEAR.noise_to_signal(int(t)) for t in GRID]
SHAPE, SQUARE = (1, 2, 3), (1, 4, 4)
EVERYWHERE = ShellGeometry(*[Interval(-math.inf, math.inf)] * 3)
SEEDS = SeedRange(2024, 0, 64)
# Parameters and noise of a prior are float32: each sample is right to a few 6e-8 of its parts,
# which the base's gain from noise to data (below 20) may enlarge.
FLOAT32 = 20 * 10 * 6e-8


def targets(shape: tuple[int, int, int], n: int = 6) -> torch.Tensor:
    """Foreign to every base here: far off in mean, narrower, correlated."""
    mixing = randn(math.prod(shape), math.prod(shape), seed=31) / math.sqrt(math.prod(shape))
    return 3 + 0.4 * (randn(n, math.prod(shape), seed=32) @ mixing).reshape(n, *shape)


def base(cov: Covariance, shape: tuple[int, int, int]) -> GaussianDenoiser:
    return GaussianDenoiser(LINEAR, randn(*shape, seed=33), cov)


def latents_of(denoiser: GaussianDenoiser, x0: torch.Tensor) -> torch.Tensor:
    """Latents through the package; the round trip proves that the steps were solved."""
    inversion = invert(denoiser, x0, GRID, iterations=80)
    assert float(inversion.error.max()) < 1e-9
    return inversion.latents


def gain(lam: np.ndarray | float) -> np.ndarray:
    """`J^-1` of an eigenvalue of the base: from a latent to clean data."""
    scale = LINEAR.scale(int(GRID[-1])) / float(LINEAR.alpha[int(GRID[-1])])
    return gaussian.ddim_gain(LEVELS[::-1], lam) * scale


def test_isotropic_line_over_a_scalar_base_gives_the_targets_own_law() -> None:
    x0 = targets(SHAPE)
    denoiser = base(Diagonal(torch.full(SHAPE, 2.5, dtype=torch.float64)), SHAPE)
    latents = latents_of(denoiser, x0)
    prior = fit_gaussian(latents, "isotropic")
    drawn = draw(PriorDraws(prior), SEEDS, EVERYWHERE, latents).latents
    out = gaussian.flat(decode(denoiser, "ddim", drawn.double(), GRID))
    rows = gaussian.flat(x0)
    variance = rows.var(0, ddof=1).mean()
    white = gaussian.flat(normal(SEEDS, SHAPE))
    expected = rows.mean(0) + math.sqrt(variance) * white
    np.testing.assert_allclose(out, expected, atol=FLOAT32)


def test_isotropic_line_over_any_diagonal_base_is_the_pulled_back_fit() -> None:
    x0, lam = targets(SHAPE), np.array([0.05, 0.3, 1.0, 2.0, 5.0, 9.0])
    denoiser = base(Diagonal(torch.from_numpy(lam).reshape(SHAPE)), SHAPE)
    latents = latents_of(denoiser, x0)
    prior = fit_gaussian(latents, "isotropic")
    out = gaussian.flat(decode(denoiser, "ddim", prior.sample(SEEDS).double(), GRID))
    rows = gaussian.flat(x0)
    variance = (rows.var(0, ddof=1) / gain(lam) ** 2).mean()  # the family's fit of J C J^T
    white = gaussian.flat(normal(SEEDS, SHAPE))
    expected = rows.mean(0) + gain(lam) * math.sqrt(variance) * white
    np.testing.assert_allclose(out, expected, atol=FLOAT32)


def test_spectral_line_over_a_stationary_base_is_the_pulled_back_fit() -> None:
    x0, cov = targets(SQUARE), stationary(SQUARE, 34)
    denoiser = base(cov, SQUARE)
    latents = latents_of(denoiser, x0)
    mean, covariance = estimate(latents.float(), "spectral_low_rank", 1.0, ())
    assert isinstance(covariance, Stationary)
    prior = GaussianPrior(mean, covariance, 1.0, 0.0)
    out = decode(denoiser, "ddim", prior.sample(SEEDS).double(), GRID)
    jacobian = gain(cov.power.numpy())
    residual = (x0 - x0.mean(0)).numpy() * math.sqrt(6 / 5)
    whitened = np.fft.ifft2(np.fft.fft2(residual) / jacobian).real
    power = gaussian.band_spectrum(whitened, SPECTRUM_FLOOR)
    white = normal(SEEDS, SQUARE).double().numpy()
    coloured = np.fft.ifft2(np.fft.fft2(white) * jacobian * np.sqrt(power)).real
    np.testing.assert_allclose(out.numpy(), x0.mean(0).numpy() + coloured, atol=FLOAT32)


@pytest.mark.parametrize("rho", [0.0, 0.02, 0.5])
def test_low_rank_part_of_the_line_forgets_the_base(rho: float) -> None:
    """`(1 - rho) S` comes back as `(1 - rho)` of the targets' own covariance over any base."""
    x0, foreign = targets(SQUARE), low_rank(SQUARE, 35)
    denoiser = base(foreign, SQUARE)
    latents = latents_of(denoiser, x0)
    mean, covariance = estimate(latents.float(), "spectral_low_rank", rho, ())
    assert isinstance(covariance, LowRank)
    factors = torch.eye(6, dtype=torch.float64)
    drawn = mean + covariance.colour(torch.zeros(6, *SQUARE, dtype=torch.float64), factors)
    out = gaussian.flat(decode(denoiser, "ddim", drawn, GRID)) - gaussian.flat(x0).mean(0)
    expected = (1 - rho) * np.cov(gaussian.flat(x0).T)
    np.testing.assert_allclose(out.T @ out, expected, atol=FLOAT32)


def test_statistics_of_the_line_are_those_of_the_targets() -> None:
    x0 = targets(SHAPE)
    denoiser = base(low_rank(SHAPE, 36), SHAPE)
    latents = latents_of(denoiser, x0)
    mean, covariance = estimate(latents.float(), "spectral_low_rank", 0.0, ())
    draws = GaussianPrior(mean, covariance, 0.0, 0.0).sample(SeedRange(5, 0, 20_000))
    out = gaussian.flat(decode(denoiser, "ddim", draws.double(), GRID))
    rows = gaussian.flat(x0)
    exact = np.cov(rows.T)
    assert worst(out, rows.mean(0), exact) < 5
    # Negative controls: the base's own mean, and the covariance divided by n instead of n - 1.
    assert worst(out, gaussian.flat(denoiser.mean[None])[0], exact) > 5
    assert worst(out, rows.mean(0), exact * 5 / 6) > 5


def worst(out: np.ndarray, mean: np.ndarray, cov: np.ndarray) -> float:
    """Largest deviation of mean and covariance, in standard errors."""
    variance = np.diag(cov)
    of_mean = np.abs(out.mean(0) - mean) / np.sqrt(variance / len(out))
    error = np.sqrt((np.outer(variance, variance) + cov**2) / len(out))
    residual = out - mean
    of_cov = np.abs(residual.T @ residual / len(out) - cov) / error
    return float(max(of_mean.max(), of_cov.max()))


def test_naive_inversion_has_the_bias_that_the_products_predict() -> None:
    """One evaluation per step and no iteration: up and down gains do not cancel."""
    x0, lam = targets(SHAPE), 2.5
    denoiser = base(Diagonal(torch.full(SHAPE, lam, dtype=torch.float64)), SHAPE)
    up = last(denoiser, Ddim(), x0 * float(LINEAR.alpha[0]), GRID)
    out = decode(denoiser, "ddim", up / LINEAR.scale(int(GRID[-1])), GRID)
    bias = float(gaussian.ddim_gain(LEVELS, lam) * gaussian.ddim_gain(LEVELS[::-1], lam))
    assert bias < 0.9
    expected = denoiser.mean + bias * (x0 - denoiser.mean)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-11)  # 36 float64 steps


def test_few_passes_report_the_error_that_they_leave() -> None:
    x0 = targets(SHAPE)
    denoiser = base(low_rank(SHAPE, 37), SHAPE)
    few, many = (invert(denoiser, x0, GRID, iterations) for iterations in (1, 6))
    seen = (few.round_trip - x0).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(few.error, seen)
    assert bool((few.error > 10 * many.error).all())
    assert bool((few.residual > many.residual).all())


def test_decoding_approaches_the_exact_flow() -> None:
    lam = np.array([0.05, 0.3, 1.0, 2.0, 5.0, 9.0])
    denoiser = base(Diagonal(torch.from_numpy(lam).reshape(SHAPE)), SHAPE)
    latents = randn(5, *SHAPE, seed=38)
    end = int(GRID[-1])
    y = gaussian.flat(latents * LINEAR.scale(end) / LINEAR.alpha[end])
    mean = gaussian.flat(denoiser.mean[None])[0]
    exact = gaussian.flow(y, LEVELS[-1], LEVELS[0], mean, np.diag(lam))
    errors = []
    for points in (19, 141):
        grid = LINEAR.log_snr_grid(points, end)
        errors.append(np.abs(gaussian.flat(decode(denoiser, "ddim", latents, grid)) - exact).max())
    assert errors[1] < errors[0] / 4  # eight times the steps, at least first order
    assert errors[1] < 0.2


def test_permuting_targets_permutes_latents() -> None:
    x0, order = targets(SHAPE), torch.tensor([3, 1, 5, 0, 2, 4])
    denoiser = base(low_rank(SHAPE, 39), SHAPE)
    straight, turned = (invert(denoiser, x, GRID, 3).latents for x in (x0, x0[order]))
    torch.testing.assert_close(straight[order], turned, rtol=0, atol=1e-11)  # rounding, 18 steps


def prior_with_tails() -> tuple[GaussianPrior, ShellGeometry, torch.Tensor]:
    prior = GaussianPrior(torch.zeros(SHAPE), Diagonal(torch.ones(SHAPE)), 1.0, 0.0)
    references = randn(8, *SHAPE, seed=40).float()
    narrow = ShellGeometry(Interval(2.0, 3.0), Interval(0.0, 99.0), Interval(0.0, 180.0))
    return prior, narrow, references


def test_refused_draws_are_redrawn_by_their_own_seed() -> None:
    prior, geometry, references = prior_with_tails()
    drawn = draw(PriorDraws(prior), SeedRange(9, 0, 40), geometry, references)
    radius = drawn.latents.flatten(1).norm(dim=1)
    assert bool(((radius >= 2) & (radius <= 3)).all())
    assert len(set(drawn.attempts.tolist())) > 2
    by_radius = drawn.refusals[:, [0, 1]]
    assert bool((by_radius == drawn.attempts[:, None] - 1).all())
    assert int(drawn.refusals[:, 2:].sum()) == 0
    for i in range(40):
        attempt = int(drawn.attempts[i]) - 1
        own = prior.sample(SeedRange(9, i, i + 1), attempt)[0]
        assert torch.equal(drawn.latents[i], own)
        alone = draw(PriorDraws(prior), SeedRange(9, i, i + 1), geometry, references)
        assert torch.equal(alone.latents[0], own)
        assert int(alone.attempts[0]) == attempt + 1


def test_a_geometry_that_refuses_all_gives_up_after_the_last_attempt() -> None:
    prior, _, references = prior_with_tails()
    nowhere = ShellGeometry(*[Interval(-2.0, -1.0)] * 3)
    drawn = draw(PriorDraws(prior), SeedRange(9, 0, 3), nowhere, references)
    assert drawn.attempts.tolist() == [ATTEMPTS] * 3
    assert drawn.refusals.tolist() == [[ATTEMPTS] * 4 + [0]] * 3  # no pair angle was asked for
    kept = prior.sample(SeedRange(9, 0, 3), attempt=ATTEMPTS - 1)
    assert torch.equal(drawn.latents, kept)


def test_factors_and_noise_of_a_sample_are_separate_streams() -> None:
    shared = normal(SEEDS, (16,), stream=Stream.FACTOR) - normal(SEEDS, (16,))
    assert float(shared.abs().min()) > 0
