"""Schedules: the published one, monotone levels, and grids with exactly the points asked for."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.diffusion.schedule import NoiseSchedule
from tests.strategies import geometric_schedule, repeatable, schedules

LINEAR = NoiseSchedule.linear()


@repeatable
@given(schedules())
def test_variance_is_preserved_and_noise_rises(schedule: NoiseSchedule) -> None:
    total = schedule.alpha**2 + schedule.sigma**2
    # Two squares of float64 roots: four roundings of 1.1e-16.
    assert float((total - 1).abs().max()) < 1e-15
    levels = [schedule.noise_to_signal(t) for t in range(len(schedule))]
    assert all(a < b for a, b in itertools.pairwise(levels))
    assert schedule.scale(0) == pytest.approx(1, abs=1e-15)


def test_linear_schedule_is_that_of_ho_et_al() -> None:
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    # A thousand float64 products: 1000 * 1.1e-16, and a square root.
    np.testing.assert_allclose(LINEAR.alpha.numpy(), np.sqrt(bar), rtol=1e-12)
    np.testing.assert_allclose(LINEAR.sigma.numpy(), np.sqrt(1 - bar), rtol=1e-12)
    assert LINEAR.noise_to_signal(0) == pytest.approx(0.01, rel=1e-4)
    assert len(LINEAR) == 1000


@pytest.mark.parametrize("ratio", [[0.1, 0.1, 0.2], [0.2, 0.1], [0.0, 0.1], [float("nan"), 1.0]])
def test_levels_that_do_not_rise_are_refused(ratio: list[float]) -> None:
    sigma = torch.tensor(ratio, dtype=torch.float64)
    with pytest.raises(ValueError, match="strictly rising"):
        NoiseSchedule(torch.ones_like(sigma), sigma)


def test_published_grid_of_eighty_points() -> None:
    grid = LINEAR.uniform_grid(80, 900).tolist()
    assert grid[:5] == [0, 11, 22, 34, 45]
    assert grid[-1] == 900
    assert grid == [i * 900 // 79 for i in range(80)]


@repeatable
@given(schedules(), st.data())
def test_grids_have_the_points_asked_for(schedule: NoiseSchedule, data: st.DataObject) -> None:
    t_end = data.draw(st.integers(1, len(schedule) - 1))
    points = data.draw(st.integers(2, t_end + 1))
    for grid in (schedule.log_snr_grid(points, t_end), schedule.uniform_grid(points, t_end)):
        assert len(grid) == points
        assert (int(grid[0]), int(grid[-1])) == (0, t_end)
        assert bool((grid.diff() >= 1).all())


@pytest.mark.parametrize("points", [2, 5, 19, 41])
def test_log_grid_is_uniform_in_the_logarithm_where_indices_allow(points: int) -> None:
    schedule = geometric_schedule(4001)
    grid = schedule.log_snr_grid(points, 4000)
    log = np.log([schedule.noise_to_signal(int(t)) for t in grid])
    step = math.log(15.0 / 0.05) / (points - 1)
    # Rounding to an index moves each point by half of the spacing ln(300) / 4000 at most.
    np.testing.assert_allclose(np.diff(log), step, atol=math.log(300) / 4000 + 1e-12)


def test_log_grid_differs_from_the_uniform_one() -> None:
    assert not torch.equal(LINEAR.log_snr_grid(19, 700), LINEAR.uniform_grid(19, 700))


@pytest.mark.parametrize(("points", "t_end"), [(1, 5), (7, 5), (3, 1000), (0, 0)])
def test_impossible_grids_are_refused(points: int, t_end: int) -> None:
    for grid in (LINEAR.log_snr_grid, LINEAR.uniform_grid):
        with pytest.raises(ValueError, match="points"):
            grid(points, t_end)


def test_index_of_is_the_first_level_that_reaches() -> None:
    for t in (0, 1, 500, 999):
        assert LINEAR.index_of(LINEAR.noise_to_signal(t)) == t
    assert LINEAR.index_of(LINEAR.noise_to_signal(500) * (1 + 1e-9)) == 501
    assert LINEAR.index_of(0.0) == 0
    assert LINEAR.index_of(1e9) == 999
