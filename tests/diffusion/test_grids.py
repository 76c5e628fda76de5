"""Grids of least cost: closed forms of the cost, and exactness of the search."""

import itertools
import math

import pytest
import torch

from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Stationary
from ood_core.numerics.random import root_key
from ood_core.synthesis.timesteps import StepCosts, error_curve
from tests.strategies import randn

SCHEDULE = NoiseSchedule.linear()
VARIANCE = 0.7


def mmse(s: torch.Tensor) -> torch.Tensor:
    """Error of the posterior mean of one Gaussian number."""
    return VARIANCE * s**2 / (VARIANCE + s**2)


def hidden(s: float, q: float) -> float:
    """The cost of a step, integrated by hand for one Gaussian number."""
    lost = math.log((VARIANCE + s**2) / (VARIANCE + q**2)) / 2
    return float(mmse(torch.tensor(s))) * math.log(s / q) - VARIANCE * lost


def costs(ratio: torch.Tensor, error: torch.Tensor) -> StepCosts:
    return StepCosts.of(range(len(ratio)), ratio, error)


def test_the_cost_of_a_step_is_its_integral() -> None:
    gaps = []
    for points in (9, 17, 33):
        ratio = torch.logspace(-2, 1, points, dtype=torch.float64)
        found = costs(ratio, mmse(ratio)).cost[points - 1, 0]
        gaps.append(abs(float(found) - hidden(10, 0.01)))
    assert gaps[0] < 0.02 * hidden(10, 0.01)
    # The trapezoid's error falls by four where points double: second order.
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.1)
    assert gaps[1] / gaps[2] == pytest.approx(4, rel=0.1)


def test_what_a_step_hides_is_the_difference_of_errors() -> None:
    """`E|D_u - D_s|^2 = mmse(s) - mmse(u)` along one path of noise, and not without it."""
    u, s, count = 0.4, 1.5, 200_000
    x0 = math.sqrt(VARIANCE) * randn(count, seed=1)
    at_u = x0 + u * randn(count, seed=2)
    at_s = at_u + math.sqrt(s**2 - u**2) * randn(count, seed=3)
    apart = x0 + s * randn(count, seed=4)  # the same noise level, another path

    def seen(y: torch.Tensor, noise: float) -> torch.Tensor:
        return y * VARIANCE / (VARIANCE + noise**2)

    expected = float(mmse(torch.tensor(s)) - mmse(torch.tensor(u)))
    gap = (seen(at_u, u) - seen(at_s, s)).square()
    error = float(gap.std()) / math.sqrt(count)
    assert float(gap.mean()) == pytest.approx(expected, abs=5 * error)
    assert float((seen(at_u, u) - seen(apart, s)).square().mean()) > expected + 20 * error


def test_errors_that_rise_with_the_logarithm_want_even_steps() -> None:
    """The cost of a step is then half the square of its length, and equal lengths are best."""
    ratio = torch.logspace(-2, 1, 25, dtype=torch.float64)
    assert costs(ratio, ratio.log()).best(6) == tuple(range(0, 25, 4))


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_exact(steps: int, seed: int) -> None:
    """Against all ways there are, by brute force."""
    ratio = (0.1 + randn(9, seed=seed).abs().double()).cumsum(0)
    table = costs(ratio, randn(9, seed=seed + 100).abs().double().cumsum(0))
    inner = itertools.combinations(range(1, 8), steps - 1)
    least = min(table.along((0, *middle, 8)) for middle in inner)
    found = table.best(steps)
    assert len(found) == steps + 1
    assert (found[0], found[-1]) == (0, 8)
    assert table.along(found) == pytest.approx(least, rel=1e-12)


def test_errors_that_fall_count_as_the_largest_so_far() -> None:
    ratio = torch.logspace(-1, 1, 5, dtype=torch.float64)
    fallen = costs(ratio, torch.tensor([1.0, 2.0, 1.5, 3.0, 2.5]))
    level = costs(ratio, torch.tensor([1.0, 2.0, 2.0, 3.0, 3.0]))
    torch.testing.assert_close(fallen.cost, level.cost)
    assert bool((fallen.cost >= 0).all())
    assert math.isinf(float(fallen.cost[0, 4]))  # no step leads up


@pytest.mark.parametrize("steps", [0, 5])
def test_more_steps_than_levels_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match="expected 1 to 4"):
        costs(torch.arange(1, 6), torch.arange(5)).best(steps)


def test_measured_errors_are_those_of_the_law() -> None:
    shape, count = (1, 16, 16), 64
    law = GaussianDenoiser(SCHEDULE, torch.zeros(shape), Stationary(torch.full(shape, VARIANCE)))
    clean = math.sqrt(VARIANCE) * randn(count, *shape).float()
    timesteps = [SCHEDULE.index_of(ratio) for ratio in (0.1, 1.0, 10.0)]
    found = error_curve(law, clean, timesteps, root_key("test"))
    ratio = torch.tensor([SCHEDULE.noise_to_signal(t) for t in timesteps])
    # 256 pixels of 64 maps: a relative error of sqrt(2 / 16384), five times.
    torch.testing.assert_close(found.float(), 256 * mmse(ratio), rtol=5 * 0.011, atol=0)
