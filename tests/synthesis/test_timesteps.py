"""The choice of `t_max` and the Gaussian of a base, on bases whose distribution is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Stationary, isotropic, wavenumbers
from ood_core.synthesis.timesteps import (
    EXPLAINED,
    TimestepPoint,
    base_gaussian,
    choose,
    explained,
    log_timesteps,
    timestep_curve,
)
from tests.oracles.mixture_denoiser import MixtureDenoiser
from tests.strategies import randn

SCHEDULE = NoiseSchedule.linear()
SHAPE = (1, 16, 16)


def spectrum() -> torch.Tensor:
    """Red and isotropic, within what the bands of the estimate can follow."""
    return (4 * torch.exp(-6 * wavenumbers(16, 16)))[None]


def gaussian_base() -> GaussianDenoiser:
    mean = 0.5 + 0.1 * randn(*SHAPE, seed=1).float()
    return GaussianDenoiser(SCHEDULE, mean, Stationary(spectrum()))


def mixture_base() -> MixtureDenoiser:
    """Two constant maps with a little red noise: far from a Gaussian where they part."""
    gaussians = [
        GaussianDenoiser(SCHEDULE, torch.full(SHAPE, level), Stationary(0.05 * spectrum()))
        for level in (-1.0, 1.0)
    ]
    return MixtureDenoiser(SCHEDULE, torch.tensor([0.5, 0.5]), gaussians)


def test_the_gaussian_of_a_gaussian_base_is_found() -> None:
    base = gaussian_base()
    gaussian = base_gaussian(base, SHAPE, root=1)
    assert isinstance(gaussian.covariance, Stationary)
    # A regression without noise, but for hats that are linear where the gain curves.
    ratio = gaussian.covariance.power / spectrum()
    assert float((ratio - 1).abs().max()) < 0.15
    # The mean is that of 64 denoised draws: five standard errors of the part that they leave.
    assert float((gaussian.mean - base.mean).abs().mean()) < 0.3
    t = SCHEDULE.index_of(4.0)
    assert explained(base, gaussian, randn(8, *SHAPE).float(), t, 1) > 0.999
    wrong = GaussianDenoiser(SCHEDULE, gaussian.mean + 3, gaussian.covariance)  # negative control
    assert explained(base, wrong, randn(8, *SHAPE).float(), t, 1) < 0.99


def test_a_mixture_is_explained_at_high_noise_alone() -> None:
    base = mixture_base()
    gaussian = base_gaussian(base, SHAPE, root=1)
    # Foreign maps, between the two Gaussians, where which one it is stays open until late.
    clean = 0.2 * randn(16, *SHAPE, seed=5).float()
    timesteps = [SCHEDULE.index_of(s) for s in (0.3, 2.0, 30.0)]
    low, middle, high = (explained(base, gaussian, clean, t, 1) for t in timesteps)
    assert low < middle < high
    assert low < 0.98 < EXPLAINED < high


def test_the_curve_of_a_gaussian_base() -> None:
    base = gaussian_base()
    maps = -1 + 0.2 * randn(16, *SHAPE, seed=3).float()  # one and a half away from the base's mean
    timesteps = log_timesteps(SCHEDULE, 2.0, 20.0, 3)
    curve = timestep_curve(base, maps[:8], maps[8:], timesteps, 0, root=2)
    assert [point.index for point in curve] == timesteps
    assert all(point.explained > EXPLAINED for point in curve)
    assert all(point.separability > 0.95 for point in curve)
    own = base.mean + base.covariance.colour(randn(16, *SHAPE, seed=4).float(), torch.zeros(16, 0))
    same = timestep_curve(base, own[:8], own[8:], timesteps, 0, root=2)
    assert all(0.1 < point.separability < 0.9 for point in same)  # negative control


def test_timesteps_are_log_spaced_and_distinct() -> None:
    timesteps = log_timesteps(SCHEDULE, 1.0, 16.0, 5)
    ratios = [SCHEDULE.noise_to_signal(t) for t in timesteps]
    np.testing.assert_allclose(ratios, [1, 2, 4, 8, 16], rtol=0.02)  # one index is 1.4 % at most
    assert log_timesteps(SCHEDULE, 1e6, 2e6, 4) == [999]


def point(index: int, explained: float, error: float, separability: float) -> TimestepPoint:
    return TimestepPoint(index, float(index), explained, error, separability)


GOOD = (
    point(1, 0.98, 0.01, 1.0),
    point(2, 0.996, 0.01, 1.0),
    point(3, 0.999, 0.01, 1.0),
)


@pytest.mark.parametrize(
    ("curve", "index"),
    [
        (GOOD, 2),
        ((GOOD[0], replace(GOOD[1], error=0.03), GOOD[2]), 3),  # twice the least is 0.02
        ((GOOD[0], replace(GOOD[1], separability=0.9), GOOD[2]), 3),
        (tuple(replace(p, explained=p.explained - 0.1) for p in GOOD), 3),
        ((GOOD[0], *(replace(p, separability=0.5) for p in GOOD[1:])), 1),
        (tuple(replace(p, separability=0.5) for p in GOOD), 3),
    ],
)
def test_the_rule(curve: tuple[TimestepPoint, ...], index: int) -> None:
    assert choose(curve).index == index


def test_a_white_base_is_white() -> None:
    base = GaussianDenoiser(SCHEDULE, torch.zeros(SHAPE), isotropic(2.0, SHAPE))
    power = base_gaussian(base, SHAPE, root=3).covariance
    assert isinstance(power, Stationary)
    torch.testing.assert_close(power.power, torch.full(SHAPE, 2.0), rtol=1e-3, atol=0)
