"""Draws given known pixels: the closed form against dense matrices, and their coverage."""

import math

import numpy as np
import pytest
import torch

from ood_core.denoising.conditioned import MAX_MISSING, ConditionedDenoiser, KnownPixels
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import InputError
from ood_core.numerics.covariance import LowRank, Stationary, wavenumbers
from ood_core.numerics.random import SeedRange, Stream, normal

SIDE = 8


def power(side=SIDE, slope=-2.0):
    k = wavenumbers(side, side)
    k[0, 0] = 1 / side
    return (k**slope / (k**slope).mean())[None]


def covariances():
    one = Stationary(power())
    factors = torch.randn(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    both = LowRank(Stationary(power().expand(2, -1, -1)), torch.cat([factors, 0.6 * factors], 1))
    return {"stationary": one, "low rank": LowRank(one, factors), "two channels": both}


def dense(covariance, shape):
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return covariance.apply(unit).flatten(1)


@pytest.mark.parametrize("kind", covariances())
@pytest.mark.parametrize("ratio", [0.3, 2.0, math.inf])
def test_mean_and_covariance_are_those_of_the_conditional_gaussian(kind, ratio):
    """By blocks of the covariance `(C^-1 + s^-2)^-1`, where the product goes by precisions.

    Powers are float32, so both sides know them to 1e-7 times a condition number below 1e3.
    """
    covariance = covariances()[kind]
    shape = (2 if kind == "two channels" else 1, SIDE, SIDE)
    missing = torch.zeros(shape, dtype=torch.bool)
    missing[..., 2:6, 1:5] = True
    generator = torch.Generator().manual_seed(0)
    known, estimate = torch.randn(2, *shape, generator=generator)
    pixels, m = KnownPixels(covariance, known, missing), missing.flatten()

    whole = dense(covariance, shape)
    error = whole if math.isinf(ratio) else ratio**2 * torch.linalg.solve(
        whole + ratio**2 * torch.eye(len(whole)), whole
    )  # fmt: skip
    gain = error[m][:, ~m] @ torch.linalg.inv(error[~m][:, ~m])
    mean = estimate.flatten().double()[m] + gain @ (known - estimate).flatten().double()[~m]
    left = error[m][:, m] - gain @ error[~m][:, m]

    got = pixels.mean(estimate[None], ratio)[0].flatten()
    assert torch.allclose(got[m].double(), mean, atol=2e-4)
    assert torch.equal(got[~m], known.flatten()[~m])
    unit = torch.eye(int(m.sum())).double()
    white = torch.zeros(len(unit), len(m), dtype=torch.float64)
    white[:, m] = unit
    root = pixels.draw(torch.zeros(len(unit), *shape), ratio, white.reshape(-1, *shape))
    flat = (root - pixels.mean(torch.zeros(1, *shape), ratio)).flatten(1)[:, m].double()
    assert torch.allclose(flat.T @ flat, left, atol=2e-4 * float(left.diagonal().max()))


def _coverage(width: float, steps: int) -> float:
    """Share of hidden pixels of Gaussian fields inside the middle half of their draws.

    `width` scales the covariance that draws are made with.
    """
    side, draws, fields = 16, 39, 40
    schedule = NoiseSchedule.linear()
    true, mean = Stationary(power(side)), torch.zeros(1, side, side)
    missing = torch.zeros(1, side, side, dtype=torch.bool)
    missing[:, 5:11, 5:11] = True
    exact = GaussianDenoiser(schedule, mean, true)
    grid = schedule.log_snr_grid(steps + 1, schedule.index_of(12.0), schedule.index_of(0.02))
    truths = true.colour(normal(SeedRange(1, 0, fields), (1, side, side)), torch.zeros(fields, 0))
    inside = []
    for number, truth in enumerate(truths):
        seeds = SeedRange(2, number * draws, (number + 1) * draws)
        pixels = KnownPixels(Stationary(power(side) * width), truth, missing)
        white = normal(seeds, (1, side, side), 0, Stream.LATENT)
        clean = pixels.draw(mean.expand(draws, 1, side, side), math.inf, white)
        top = int(grid[-1])
        noise = normal(seeds, (1, side, side), 0, Stream.FACTOR)
        start = float(schedule.alpha[top]) * clean + float(schedule.sigma[top]) * noise
        denoiser = ConditionedDenoiser(exact, pixels, seeds)
        made = decode(denoiser, "ancestral", start / schedule.scale(top), grid, seeds)
        below = (made < truth).sum(0)[missing]
        inside.append(float(((below >= 10) & (below <= 29)).float().mean()))
    return float(np.mean(inside))


@pytest.mark.parametrize("steps", [1, 4])
def test_hidden_pixels_lie_in_their_intervals_as_often_as_they_should(steps):
    """20 of 40 ranks are inside: 0.5, whatever the number of steps.

    36 neighbouring pixels of a field count as at least three, so a share over 40 fields has a
    standard deviation of at most sqrt(0.25 / 120) = 0.046. The control: with a hundredth of the
    variance intervals are narrower.
    """
    assert abs(_coverage(1.0, steps) - 0.5) < 3 * 0.046
    assert _coverage(0.01, steps) < 0.5 - 3 * 0.046


def test_more_missing_pixels_than_a_matrix_should_hold_are_refused():
    side = int(MAX_MISSING**0.5) + 1
    missing = torch.ones(1, side, side, dtype=torch.bool)
    with pytest.raises(InputError, match=f"misses {side * side} pixels"):
        KnownPixels(Stationary(power(side)), torch.zeros(1, side, side), missing)
