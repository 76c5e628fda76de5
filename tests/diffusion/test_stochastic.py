"""Solvers that add noise: step for step against a closed form, and the order of their law.

On a Gaussian every step is linear in the map and in its noise. So a path is a product formula with
the very numbers that the solver draws, and the law of the end is a product of its own; the path
proves that the code is the formula, the formula has the order that the code declares.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ood_core.diffusion.solvers import (
    CountingDenoiser,
    Ddim,
    Solver,
    StochasticDdim,
    descending,
    last,
)
from ood_core.numerics.random import SeedRange, StepNoise, Stream, normal
from tests.contracts.solver import (
    HIGH,
    LOW,
    MEAN,
    SCHEDULE,
    VARIANCE,
    assert_order,
    gaussian_denoiser,
    grid_of,
    mixture_denoiser,
    uneven_grid_of,
)
from tests.oracles import gaussian
from tests.strategies import randn

SEEDS = SeedRange(11, 0, 4)


def noise_of(seeds: SeedRange) -> StepNoise:
    return StepNoise(seeds, Stream.SOLVER)


KINDS: dict[str, tuple[Callable[[SeedRange], Solver[Any]], float]] = {
    "eta 0.3": (lambda seeds: StochasticDdim(noise_of(seeds), 0.3), 0.3),
    "ancestral": (lambda seeds: StochasticDdim(noise_of(seeds)), 1.0),
}


def levels(grid: torch.Tensor) -> list[float]:
    return [SCHEDULE.noise_to_signal(int(t)) for t in grid]


@pytest.mark.parametrize("steps", [1, 2, 16, 128])
@pytest.mark.parametrize("ascending", [grid_of, uneven_grid_of], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", KINDS)
def test_paths_are_their_product_formula(kind: str, ascending: Any, steps: int) -> None:
    make, eta = KINDS[kind]
    grid = descending(ascending(steps))
    y = 3 * randn(4, 1, 2, 3, seed=steps)
    state = last(gaussian_denoiser(), make(SEEDS), y * float(SCHEDULE.alpha[int(grid[0])]), grid)
    found = make(SEEDS).read(state) / float(SCHEDULE.alpha[int(grid[-1])])
    noise = [
        gaussian.flat(normal(SEEDS, (1, 2, 3), attempt=int(t), stream=Stream.SOLVER))
        for t in grid[:-1]
    ]
    start = gaussian.flat(y) - MEAN
    expected = MEAN + gaussian.noisy_path(start, noise, levels(grid), VARIANCE, eta)
    # N steps of about ten roundings each, of values up to a few tens.
    np.testing.assert_allclose(gaussian.flat(found), expected, atol=10 * steps * 1.2e-16 * 100)


@pytest.mark.parametrize("ascending", [grid_of, uneven_grid_of], ids=["even", "uneven"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_law_of_the_end_has_the_declared_order(kind: str, ascending: Any) -> None:
    make, eta = KINDS[kind]

    def error(steps: int) -> float:
        found = gaussian.noisy_variance(levels(descending(ascending(steps))), VARIANCE, eta)
        return float(np.abs(found / (VARIANCE + LOW**2) - 1).max())

    assert_order(error, (128, 256, 512), make(SEEDS).order)
    assert error(32) > 1e-3  # negative control: it is not exact


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_has_that_law(kind: str) -> None:
    """Many draws, against the variance of the same number of steps, which is not yet the law's."""
    make, eta = KINDS[kind]
    rows, grid = 4000, descending(grid_of(4))
    start = MEAN + np.sqrt(VARIANCE + HIGH**2) * gaussian.flat(randn(rows, 1, 2, 3, seed=3))
    x = torch.from_numpy(start).reshape(rows, 1, 2, 3) * float(SCHEDULE.alpha[int(grid[0])])
    solver = make(SeedRange(7, 0, rows))
    end = solver.read(last(gaussian_denoiser(), solver, x, grid))
    found = gaussian.flat(end / float(SCHEDULE.alpha[int(grid[-1])]))
    expected = gaussian.noisy_variance(levels(grid), VARIANCE, eta)
    five = 5 * np.sqrt(2 / rows)
    assert np.abs(found.var(0) / expected - 1).max() < five
    assert np.abs(found.mean(0) - MEAN).max() < 5 * np.sqrt(expected.max() / rows)
    assert np.abs(expected / (VARIANCE + LOW**2) - 1).max() > five  # negative control


@pytest.mark.parametrize("kind", KINDS)
def test_one_evaluation_per_step(kind: str) -> None:
    solver = KINDS[kind][0](SEEDS)
    counting = CountingDenoiser(gaussian_denoiser())
    out = solver.read(last(counting, solver, randn(4, 1, 2, 3).float(), descending(grid_of(16))))
    assert counting.nfe == 4 * 16 * solver.nfe_per_step
    assert out.dtype == torch.float32
    assert isinstance(solver, Solver)


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_of_the_seed_and_the_level(kind: str) -> None:
    make, grid = KINDS[kind][0], descending(grid_of(8))
    y = randn(4, 1, 1, 2, seed=2)

    def end(x: torch.Tensor, seeds: SeedRange) -> torch.Tensor:
        solver = make(seeds)
        return solver.read(last(mixture_denoiser(), solver, x, grid))

    whole = end(y, SEEDS)
    torch.testing.assert_close(end(y[2:], SeedRange(11, 2, 4)), whole[2:], rtol=0, atol=1e-12)
    same = end(y[:1].expand(2, -1, -1, -1), SeedRange(11, 0, 2))
    assert not torch.allclose(*same)
    zero = torch.zeros(1, 1, 2, 3)
    steps = [make(SeedRange(5, 0, 1)).step(Zero(), make(SEEDS).init(zero), s, 10) for s in (40, 41)]
    noises = [make(SEEDS).read(step) for step in steps]
    assert not torch.allclose(*noises, rtol=0.1)


class Zero:
    """Every clean map is zero."""

    schedule = SCHEDULE

    def __call__(self, x_t: torch.Tensor, t: int) -> torch.Tensor:
        return torch.zeros_like(x_t)


def test_without_fresh_noise_it_is_ddim() -> None:
    x, grid = randn(4, 1, 1, 2, seed=5), descending(grid_of(32))
    found = last(mixture_denoiser(), StochasticDdim(noise_of(SEEDS), 0.0), x, grid)
    expected = last(mixture_denoiser(), Ddim(), x, grid)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_eta_beyond_its_range_is_refused(eta: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        StochasticDdim(noise_of(SEEDS), eta)
