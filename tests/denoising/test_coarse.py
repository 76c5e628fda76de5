"""Estimates held to coarse maps: the closed form against dense matrices, and the law of samples."""

import pytest
import torch

from ood_core.denoising.coarse import CoarseDenoiser, block_means
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Stationary, wavenumbers
from ood_core.numerics.random import SeedRange, Stream, normal

SHAPE, FACTOR = (8, 12), 2
SCHEDULE = NoiseSchedule.linear()


def power(height=SHAPE[0], width=SHAPE[1], slope=-2.0):
    k = wavenumbers(height, width).double()
    k[0, 0] = 1 / height
    return (k**slope / (k**slope).mean())[None]


def dense(function, shape):
    """Matrix of a linear map of maps of one channel."""
    unit = torch.eye(shape[0] * shape[1], dtype=torch.float64).reshape(-1, 1, *shape)
    return function(unit).flatten(1).T


@pytest.mark.parametrize("error", [0.0, 0.3])
@pytest.mark.parametrize("noise", [0.2, 3.0])
def test_estimates_move_to_the_mean_of_the_conditional_gaussian(error, noise):
    """`D + C B^T (B C B^T + e^2)^-1 (coarse - B D)` by dense matrices, in double precision."""
    left_open = power() / (power() / noise**2 + 1)
    covariance = dense(Stationary(left_open).apply, SHAPE)
    means_of = dense(lambda maps: block_means(maps, FACTOR), SHAPE)
    generator = torch.Generator().manual_seed(0)
    estimate = torch.randn(1, 1, *SHAPE, generator=generator, dtype=torch.float64)
    coarse = torch.randn(1, 1, 4, 6, generator=generator, dtype=torch.float64)
    both = means_of @ covariance @ means_of.T + error**2 * torch.eye(24)
    missed = coarse.flatten() - means_of @ estimate.flatten()
    wanted = estimate.flatten() + covariance @ means_of.T @ torch.linalg.solve(both, missed)

    inner = GaussianDenoiser(SCHEDULE, torch.zeros(1, *SHAPE), Stationary(power()))
    held = CoarseDenoiser(inner, coarse, power(), error).held(estimate, noise)
    assert torch.allclose(held.flatten(), wanted, atol=1e-6)  # the box is of single precision
    if error == 0:
        assert torch.allclose(block_means(held, FACTOR), coarse, atol=1e-6)
    else:
        assert not torch.allclose(block_means(held, FACTOR), coarse, atol=1e-2)


def _power(factor: int | None) -> torch.Tensor:
    """Power of samples over the true one, in thirds of the wavenumbers, given true block means."""
    count, side, steps = 256, 16, 100
    true = Stationary(power(side, side).float())
    truths = true.colour(normal(SeedRange(1, 0, count), (1, side, side)), torch.zeros(count, 0))
    seeds = SeedRange(2, 0, count)
    grid = SCHEDULE.log_snr_grid(steps, SCHEDULE.index_of(30.0), SCHEDULE.index_of(0.02))
    denoiser = GaussianDenoiser(SCHEDULE, torch.zeros(1, side, side), true)
    if factor is not None:
        denoiser = CoarseDenoiser(denoiser, block_means(truths, factor), true.power)
    latents = normal(seeds, (1, side, side), 0, Stream.LATENT)
    made = decode(denoiser, "ancestral", latents, grid, seeds)
    found = (torch.fft.fft2(made, norm="ortho").abs().square().mean(0) / true.power)[0]
    third = (wavenumbers(side, side) / (0.5 / 3)).long().clamp(max=2)
    return torch.stack([found[third == number].mean() for number in range(3)])


def test_samples_given_true_block_means_have_the_law_of_the_field():
    """Details have the power that they have in a field of their own, whose steps are finite too.

    A third of the modes has 20 of 256 maps at least, 5120 numbers, whose mean square has a relative
    standard deviation of sqrt(2 / 5120) = 0.02, and so have two of them, of the same noise. Waves
    longer than a block come with the means: less of what finite steps miss (7 %) is missing there.
    """
    alone, held = _power(None), _power(4)
    assert torch.allclose(held[1:], alone[1:], atol=3 * 0.03)
    assert alone[0] + 0.03 < held[0] < 1 + 3 * 0.02
