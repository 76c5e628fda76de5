"""Estimates held to coarse maps: the closed form against dense matrices, and the law of samples."""

import pytest
import torch

from ood_core.denoising.coarse import CoarseDenoiser
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Stationary, wavenumbers
from ood_core.numerics.random import SeedRange, Stream, normal
from ood_core.numerics.tents import lowered, tents

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


@pytest.mark.parametrize("factor", [2, 3, 4, 5])
def test_tents_weigh_all_pixels_alike_and_are_symmetric_about_their_own(factor):
    weights = tents(4 * factor, factor)
    assert torch.allclose(weights.sum(0), torch.full((4 * factor,), 1 / factor))
    assert torch.allclose(weights.sum(1), torch.ones(4))
    assert torch.allclose(weights[1], weights[1].roll(-factor).flip(0).roll(2 * factor))
    inside = weights[1].nonzero()[:, 0]
    assert len(inside) == 2 * factor - factor % 2  # a pixel more than two boxes where even
    assert float(inside.float().mean()) == factor + (factor - 1) / 2
    plane = torch.arange(4.0 * factor)[None, None, :, None].expand(-1, -1, -1, 2 * factor)
    middle = lowered(plane, factor)[0, 0, 1:3, 0]  # the others see both borders
    assert torch.allclose(middle, factor * torch.tensor([1.0, 2.0]) + (factor - 1) / 2)


@pytest.mark.parametrize("noise", [0.2, 3.0])
def test_estimates_move_to_the_mean_of_the_conditional_gaussian(noise):
    """`D + C B^T (B C B^T)^-1 (coarse - B D)` by dense matrices, in double precision."""
    left_open = power() / (power() / noise**2 + 1)
    covariance = dense(Stationary(left_open).apply, SHAPE)
    means_of = dense(lambda maps: lowered(maps, FACTOR), SHAPE)
    generator = torch.Generator().manual_seed(0)
    estimate = torch.randn(1, 1, *SHAPE, generator=generator, dtype=torch.float64)
    coarse = torch.randn(1, 1, 4, 6, generator=generator, dtype=torch.float64)
    both = means_of @ covariance @ means_of.T
    missed = coarse.flatten() - means_of @ estimate.flatten()
    wanted = estimate.flatten() + covariance @ means_of.T @ torch.linalg.solve(both, missed)

    inner = GaussianDenoiser(SCHEDULE, torch.zeros(1, *SHAPE), Stationary(power()))
    held = CoarseDenoiser(inner, coarse, power()).held(estimate, noise)
    assert torch.allclose(held.flatten(), wanted, atol=1e-9)
    assert torch.allclose(lowered(held, FACTOR), coarse, atol=1e-9)


def _power(factor: int | None) -> torch.Tensor:
    """Power of samples over the true one, in thirds of the wavenumbers, given true coarse maps."""
    count, side, steps = 256, 16, 100
    true = Stationary(power(side, side).float())
    truths = true.colour(normal(SeedRange(1, 0, count), (1, side, side)), torch.zeros(count, 0))
    seeds = SeedRange(2, 0, count)
    grid = SCHEDULE.log_snr_grid(steps, SCHEDULE.index_of(30.0), SCHEDULE.index_of(0.02))
    denoiser = GaussianDenoiser(SCHEDULE, torch.zeros(1, side, side), true)
    if factor is not None:
        denoiser = CoarseDenoiser(denoiser, lowered(truths, factor), true.power)
    latents = normal(seeds, (1, side, side), 0, Stream.LATENT)
    made = decode(denoiser, "ancestral", latents, grid, seeds)
    found = (torch.fft.fft2(made, norm="ortho").abs().square().mean(0) / true.power)[0]
    third = (wavenumbers(side, side) / (0.5 / 3)).long().clamp(max=2)
    return torch.stack([found[third == number].mean() for number in range(3)])


def test_samples_given_true_coarse_maps_have_the_law_of_the_field():
    """Details have the power that they have in a field of their own, whose steps are finite too.

    A third of the modes has 20 of 256 maps at least, 5120 numbers, whose mean square has a relative
    standard deviation of sqrt(2 / 5120) = 0.02, and so have two of them, of the same noise. Waves
    longer than a tent come with the coarse map: less of what finite steps miss (7 %) is missing.
    """
    alone, held = _power(None), _power(4)
    assert torch.allclose(held[1:], alone[1:], atol=3 * 0.03)
    assert alone[0] + 0.03 < held[0] < 1 + 3 * 0.02
