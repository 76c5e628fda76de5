"""Solvers under their contract, and step for step against products in closed form."""

import itertools
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch

from ood_core.config.method import Method, SolverName
from ood_core.diffusion.sampling import (
    SOLVERS,
    WITH_ETA,
    decode,
    evaluations_per_map,
    solver_class,
)
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import (
    CountingDenoiser,
    Ddim,
    FixedPointDdim,
    Solver,
    descending,
    integrate,
    last,
)
from ood_core.errors import ConfigError
from ood_core.numerics.random import SeedRange
from tests.contracts.solver import (
    MEAN,
    POINTS,
    SCHEDULE,
    VARIANCE,
    SolverContract,
    assert_order,
    gaussian_denoiser,
    grid_of,
    mixture_denoiser,
    uneven_grid_of,
)
from tests.oracles import gaussian, mixture
from tests.strategies import randn


class TestDdim(SolverContract):
    return_order = 1

    @pytest.fixture
    def solver(self) -> Solver[Any]:
        return Ddim()


class TestDdimUpward(TestDdim):
    descends = False


class TestFixedPoint(SolverContract):
    descends = False
    return_order = 1

    @pytest.fixture(params=[3, 12])
    def solver(self, request: pytest.FixtureRequest) -> Solver[Any]:
        return FixedPointDdim(request.param)


def levels(grid: torch.Tensor) -> list[float]:
    return [SCHEDULE.noise_to_signal(int(t)) for t in grid]


def travel(solver: Solver[Any], y: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    alpha = SCHEDULE.alpha
    state = last(gaussian_denoiser(), solver, y * float(alpha[int(grid[0])]), grid)
    return solver.read(state) / float(alpha[int(grid[-1])])


@pytest.mark.parametrize("steps", [1, 2, 8, 64, 512])
@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
@pytest.mark.parametrize("ascending", [grid_of, uneven_grid_of], ids=["even", "uneven"])
def test_discrete_steps_are_their_product_formula(ascending: Any, steps: int, up: bool) -> None:
    grid = ascending(steps) if up else descending(ascending(steps))
    y = 3 * randn(4, 1, 2, 3, seed=steps)
    expected = MEAN + gaussian.ddim_gain(levels(grid), VARIANCE) * (gaussian.flat(y) - MEAN)
    # N steps of about ten roundings each, of values up to a few hundred times their start.
    tolerance = 10 * steps * 1.2e-16 * max(10.0, np.abs(expected).max())
    np.testing.assert_allclose(gaussian.flat(travel(Ddim(), y, grid)), expected, atol=tolerance)


@pytest.mark.parametrize("variance", [0.3, 1.0, 4.0])
def test_twenty_naive_steps_up_and_down_shrink_every_axis_as_measured(variance: float) -> None:
    levels = list(0.05 * 300.0 ** (np.arange(21) / 20))
    gain = gaussian.ddim_gain(levels, variance) * gaussian.ddim_gain(levels[::-1], variance)
    assert gain == pytest.approx(0.868, abs=0.005)  # the published bias has three digits


def test_the_oracle_of_the_mixture_undoes_itself() -> None:
    y = gaussian.flat(randn(5, 1, 1, 2))
    back = mixture.flow(mixture.flow(y, 0.05, 15.0), 15.0, 0.05)
    np.testing.assert_allclose(back, y, atol=1e-9)  # 1e-12 per step, some hundred steps, gain 15


def undone(solver: FixedPointDdim, steps: int) -> float:
    """Largest round-trip error on the mixture, in units of its spread."""
    clean = torch.from_numpy(np.repeat(mixture.MEANS, 4, axis=0)).reshape(-1, 1, 1, 2)
    clean = clean + 0.3 * randn(12, 1, 1, 2, seed=7)
    alpha, grid, denoiser = float(SCHEDULE.alpha[0]), grid_of(steps), mixture_denoiser()
    up = solver.read(last(denoiser, solver, clean * alpha, grid))
    return float((last(denoiser, Ddim(), up, descending(grid)) / alpha - clean).abs().max())


@pytest.mark.parametrize("steps", [16, 64])
def test_fixed_point_inversion_is_undone_by_ddim(steps: int) -> None:
    # Every step is solved to rounding of values below 30; decoding adds its own N roundings and
    # separates modes with a gain below 1e3.
    assert undone(FixedPointDdim(60), steps) < 1e-10


def test_more_passes_leave_less() -> None:
    errors = [undone(FixedPointDdim(iterations), 32) for iterations in (1, 2, 3, 5, 8)]
    assert all(a > b for a, b in itertools.pairwise(errors)), errors
    assert errors[1] < errors[0] / 5  # the second pass earns at least five times


def test_the_residual_tells_the_round_trip() -> None:
    denoiser, start = mixture_denoiser(), randn(3, 1, 1, 2, seed=8)
    residual = [
        float(last(denoiser, FixedPointDdim(iterations), start, grid_of(16)).residual.max())
        for iterations in (1, 3, 30)
    ]
    assert residual[0] > residual[1] > residual[2]
    assert residual[2] < 1e-12  # solved to rounding


def test_naive_inversion_is_undone_only_with_many_steps() -> None:
    y = randn(3, 1, 2, 3, seed=4)

    def error(steps: int) -> float:
        up = travel(Ddim(), y, grid_of(steps))
        return float((travel(Ddim(), up, descending(grid_of(steps))) - y).abs().max())

    assert_order(error, (128, 256, 512), 1)
    assert error(32) > 0.01  # negative control of the test above


def test_integrate_yields_every_point_of_the_grid_and_the_start() -> None:
    grid = descending(grid_of(8))
    x = randn(2, 1, 2, 3)
    states = list(integrate(gaussian_denoiser(), Ddim(), x, grid))
    assert len(states) == 9
    assert torch.equal(states[0], x)
    middle = int(grid[4])
    again = last(gaussian_denoiser(), Ddim(), states[4], grid[4:])
    assert torch.equal(again, states[-1]), f"a path may be cut at {middle} and continued"


def test_only_the_level_matters_and_not_the_scaling_of_the_schedule() -> None:
    ratio = SCHEDULE.sigma / SCHEDULE.alpha
    exploding = NoiseSchedule(torch.ones_like(ratio), ratio)
    y, grid = 5 * randn(2, 1, 2, 3), descending(grid_of(32))
    out = last(gaussian_denoiser(exploding), Ddim(), y, grid)
    # 32 steps, ten roundings each, values below 20.
    torch.testing.assert_close(out, travel(Ddim(), y, grid), rtol=0, atol=1e-12)


def test_points_cover_the_contract_grid() -> None:
    assert grid_of(64).tolist()[::64] == [0, POINTS]


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_solver_that_is_not_in_the_table_is_refused_and_not_run_as_ddim(eta):
    latents, name = torch.zeros(2, *MEAN.shape), cast(SolverName, "brand_new")
    with pytest.raises(ValueError, match="brand_new.*expected ddim"):
        decode(gaussian_denoiser(), name, latents, grid_of(2), SeedRange(0, 0, 2), eta)
    with pytest.raises(ValueError, match="brand_new.*expected ddim"):
        evaluations_per_map(name, 2, eta)


def test_names_and_table_agree():
    assert set(SOLVERS) == set(get_args(SolverName))
    for name in SOLVERS:  # the configuration refuses the same ones
        if name in WITH_ETA:
            assert Method(solver=name, eta=0.5).eta == 0.5
            continue
        with pytest.raises(ConfigError, match="eta"):
            Method(solver=name, eta=0.5)
        with pytest.raises(ValueError, match=name):
            solver_class(name, 0.5)


ASKED = [(name, eta) for eta, table in ((0.0, SOLVERS), (0.5, WITH_ETA)) for name in table]


@pytest.mark.parametrize(("name", "eta"), ASKED)
def test_evaluations_are_those_that_decoding_counts(name, eta):
    counting, seeds = CountingDenoiser(gaussian_denoiser()), SeedRange(0, 0, 3)
    latents = randn(3, 1, 2, 3)
    decode(counting, name, latents, grid_of(8), seeds, eta)
    assert counting.nfe == 3 * evaluations_per_map(name, 8, eta)
    if solver_class(name, eta).adds_noise:
        with pytest.raises(ValueError, match="expected as many"):
            decode(counting, name, latents, grid_of(8), None, eta)


def test_what_a_solver_costs_is_asked_of_its_class(monkeypatch):
    class Dear:
        nfe_per_step, adds_noise = 7, True

    monkeypatch.setitem(SOLVERS, "brand_new", Dear)
    assert evaluations_per_map(cast(SolverName, "brand_new"), 3) == 22
