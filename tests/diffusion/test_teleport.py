"""Teleport: the flow of a Gaussian in closed form, against dense matrices and against steps."""

import numpy as np
import pytest
import torch

from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode, invert
from ood_core.diffusion.solvers import Ddim, last
from ood_core.diffusion.teleport import Shortcut, Teleport
from tests.contracts.solver import SCHEDULE, grid_of
from tests.oracles import gaussian
from tests.strategies import COVARIANCES, randn

SHAPE = (2, 4, 5)
PAIRS = [(900, 500), (500, 900), (1024, 0), (0, 1024), (300, 301), (700, 700)]


@pytest.mark.parametrize(("s", "t"), PAIRS)
@pytest.mark.parametrize("kind", COVARIANCES)
def test_it_is_the_flow_of_the_dense_oracle(kind: str, s: int, t: int) -> None:
    covariance, mean = COVARIANCES[kind](SHAPE, 4), randn(*SHAPE, seed=1)
    flow = Teleport(SCHEDULE, mean, covariance)
    y = 5 * randn(3, *SHAPE, seed=2)
    moved = flow(y * float(SCHEDULE.alpha[s]), s, t) / float(SCHEDULE.alpha[t])
    here, there = SCHEDULE.noise_to_signal(s), SCHEDULE.noise_to_signal(t)
    dense = gaussian.dense(covariance.apply, SHAPE)
    expected = gaussian.flow(gaussian.flat(y), here, there, gaussian.flat(mean[None])[0], dense)
    # Levels differ by up to 300: the root is approximated to double precision, e^-36.
    np.testing.assert_allclose(gaussian.flat(moved), expected, atol=1e-12 * np.abs(expected).max())


def law() -> GaussianDenoiser:
    return GaussianDenoiser(SCHEDULE, randn(*SHAPE, seed=1), COVARIANCES["low_rank"](SHAPE, 4))


def test_steps_of_a_solver_arrive_where_it_does() -> None:
    x = randn(3, *SHAPE, seed=2)
    flow = Teleport(SCHEDULE, law().mean, law().covariance)
    errors = [
        float((last(law(), Ddim(), x, grid_of(steps)) - flow(x, 0, 1024)).abs().max())
        for steps in (128, 256)
    ]
    assert errors[1] < errors[0] / 1.8 < 0.1  # first order


def test_up_and_down_undo_one_another() -> None:
    flow = Teleport(SCHEDULE, law().mean, law().covariance)
    x = randn(3, *SHAPE, seed=2)
    torch.testing.assert_close(flow(flow(x, 200, 900), 900, 200), x, rtol=0, atol=1e-12)


def test_a_line_through_a_shortcut_is_the_line_of_many_steps() -> None:
    """On the law's own denoiser nothing is lost above the grid; elsewhere the wrong law shows."""
    low, high, x0 = 600, 1024, randn(3, *SHAPE, seed=6)
    right = Shortcut(Teleport(SCHEDULE, law().mean, law().covariance), low, high)
    grid = grid_of(512)[: low // 2 + 1]
    short = invert(law(), x0, grid, 4, shortcut=right)
    full = invert(law(), x0, grid_of(512), 4)
    # The steps that the shortcut replaces: 212 first-order steps of 0.011 in ln s.
    torch.testing.assert_close(short.latents, full.latents, rtol=0, atol=0.02)
    assert float(short.error.max()) < 1e-4
    back = decode(law(), "ddim", short.latents, grid, shortcut=right)
    torch.testing.assert_close(back, short.round_trip, rtol=0, atol=1e-9)
    wrong = Shortcut(Teleport(SCHEDULE, law().mean + 1, law().covariance), low, high)
    other = invert(law(), x0, grid, 4, shortcut=wrong)
    assert float((other.latents - full.latents).abs().max()) > 0.03
