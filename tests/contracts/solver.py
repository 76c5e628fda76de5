"""What every solver promises: its declared order and evaluations, and independence of rows."""

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from ood_core.arrays import TimeGrid
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import CountingDenoiser, Solver, descending, last
from ood_core.numerics.covariance import Diagonal
from tests.oracles import gaussian, mixture
from tests.oracles.mixture_denoiser import MixtureDenoiser
from tests.strategies import geometric_schedule, randn

POINTS = 2**10
SCHEDULE = geometric_schedule(POINTS + 1)
LOW, HIGH = SCHEDULE.noise_to_signal(0), SCHEDULE.noise_to_signal(POINTS)
VARIANCE = np.array([0.02, 0.3, 1.0, 4.0, 0.1, 2.0])
MEAN = np.array([0.5, -1.0, 0.0, 2.0, 1.0, -0.3])


def grid_of(steps: int) -> TimeGrid:
    """Ascending grid of `steps` steps, uniform in the logarithm of the level."""
    return torch.arange(0, POINTS + 1, POINTS // steps)


def uneven_grid_of(steps: int) -> TimeGrid:
    """The same, with every second step three times as long as its neighbours."""
    unit = POINTS // (2 * steps)
    strides = [unit, 3 * unit] * (steps // 2) if steps > 1 else [POINTS]
    return torch.tensor([0, *strides]).cumsum(0)


def gaussian_denoiser(schedule: NoiseSchedule = SCHEDULE) -> GaussianDenoiser:
    shape = (1, 2, 3)
    variance = torch.from_numpy(VARIANCE).reshape(shape)
    return GaussianDenoiser(schedule, torch.from_numpy(MEAN).reshape(shape), Diagonal(variance))


def mixture_denoiser() -> MixtureDenoiser:
    members = [
        GaussianDenoiser(
            SCHEDULE,
            torch.from_numpy(mean).reshape(1, 1, 2),
            Diagonal(torch.full((1, 1, 2), variance, dtype=torch.float64)),
        )
        for mean, variance in zip(mixture.MEANS, mixture.VARIANCES, strict=True)
    ]
    return MixtureDenoiser(SCHEDULE, torch.from_numpy(mixture.WEIGHTS), members)


class SolverContract:
    """Subclass with `solver`; `descends` tells whether it decodes or inverts."""

    descends = True
    steps: ClassVar[tuple[int, ...]] = (64, 128, 256)
    return_order: ClassVar[int]  # of the error after inverting and decoding by this solver
    uneven_order: ClassVar[int | None] = None  # where steps alternate, if it is not `order`

    @pytest.fixture
    def solver(self) -> Solver[Any]:
        raise NotImplementedError

    def ends(self) -> tuple[float, float]:
        return (HIGH, LOW) if self.descends else (LOW, HIGH)

    def run(
        self,
        solver: Solver[Any],
        denoiser: Denoiser,
        y: torch.Tensor,
        steps: int,
        ascending: Callable[[int], TimeGrid] = grid_of,
    ) -> Any:
        """From level to level in units of `y = x / alpha`."""
        grid = descending(ascending(steps)) if self.descends else ascending(steps)
        alpha = denoiser.schedule.alpha
        state = last(denoiser, solver, y * float(alpha[int(grid[0])]), grid)
        return solver.read(state) / float(alpha[int(grid[-1])])

    def test_is_a_solver(self, solver: Solver[Any]) -> None:
        assert isinstance(solver, Solver)
        x = randn(2, 1, 2, 3)
        assert torch.equal(solver.read(solver.init(x)), x)

    @pytest.mark.parametrize("grid", [grid_of, uneven_grid_of], ids=["even", "uneven"])
    def test_declared_order_holds_on_the_gaussian(
        self, solver: Solver[Any], grid: Callable[[int], TimeGrid]
    ) -> None:
        s, t = self.ends()
        y = gaussian.flat(randn(4, 1, 2, 3, seed=1)) * np.sqrt(VARIANCE + s**2) + MEAN
        exact = gaussian.flow(y, s, t, MEAN, np.diag(VARIANCE))
        start = torch.from_numpy(y).reshape(-1, 1, 2, 3)

        def error(steps: int) -> float:
            out = self.run(solver, gaussian_denoiser(), start, steps, grid)
            return float(np.abs(gaussian.flat(out) - exact).max())

        smooth = grid is grid_of or self.uneven_order is None
        assert_order(error, self.steps, solver.order if smooth else self.uneven_order or 0)

    def test_declared_order_holds_on_the_mixture(self, solver: Solver[Any]) -> None:
        s, t = self.ends()
        y = s * gaussian.flat(randn(6, 1, 1, 2, seed=2)) + (
            0 if self.descends else mixture.MEANS[0]
        )
        exact = mixture.flow(y, s, t)

        def error(steps: int) -> float:
            out = self.run(
                solver, mixture_denoiser(), torch.from_numpy(y).reshape(-1, 1, 1, 2), steps
            )
            return float(np.sqrt(((gaussian.flat(out) - exact) ** 2).mean()))

        assert_order(error, self.steps, solver.order)

    def test_declared_evaluations_are_counted(self, solver: Solver[Any]) -> None:
        counting = CountingDenoiser(gaussian_denoiser())
        self.run(solver, counting, randn(5, 1, 2, 3), 16)
        assert counting.nfe == 5 * 16 * solver.nfe_per_step

    def test_the_first_step_costs_the_same(self, solver: Solver[Any]) -> None:
        counting = CountingDenoiser(gaussian_denoiser())
        self.run(solver, counting, randn(2, 1, 2, 3), 1)
        assert counting.nfe == 2 * solver.nfe_per_step

    def test_rows_do_not_meet(self, solver: Solver[Any]) -> None:
        y = 5 * randn(4, 1, 1, 2, seed=3)
        batch = self.run(solver, mixture_denoiser(), y, 16)
        for row in range(4):
            alone = self.run(solver, mixture_denoiser(), y[row : row + 1], 16)[0]
            # Sixteen steps of a few float64 roundings of numbers below 20: 1e-12.
            assert float((alone - batch[row]).abs().max()) < 1e-12

    def test_keeps_the_dtype(self, solver: Solver[Any]) -> None:
        out = self.run(solver, gaussian_denoiser(), randn(2, 1, 2, 3).float(), 4)
        assert out.dtype == torch.float32

    def test_there_and_back_is_undone_with_more_steps(self, solver: Solver[Any]) -> None:
        y = gaussian.flat(randn(3, 1, 2, 3, seed=4)) * np.sqrt(VARIANCE) + MEAN
        clean = torch.from_numpy(y).reshape(-1, 1, 2, 3)
        denoiser = gaussian_denoiser()

        def error(steps: int) -> float:
            alpha, grid = SCHEDULE.alpha, grid_of(steps)
            up = solver.read(last(denoiser, solver, clean * float(alpha[0]), grid))
            down = solver.read(last(denoiser, solver, up, descending(grid)))
            return float((down / float(alpha[0]) - clean).abs().max())

        assert_order(error, self.steps, self.return_order)


def assert_order(error: Callable[[int], float], steps: tuple[int, ...], order: int) -> None:
    """Hold three doublings to `error ~ N^-order`.

    With `error = a N^-p (1 + b/N)` the slope between N and 2N is `p + b / (2 N ln 2)`, so that
    `2 * later - earlier` cancels `b`. What is left is of order `1/N^2`: with slopes that differ by
    `d`, at most about `d^2 + d/4`; the margin is three times this plus 0.01 for rounding.
    """
    errors = [error(n) for n in steps]
    slopes = [float(np.log2(a / b)) for a, b in itertools.pairwise(errors)]
    earlier, later = slopes[-2:]
    change = abs(later - earlier)
    margin = 0.01 + 3 * (change**2 + change / 4)
    assert margin < 0.4, f"not yet asymptotic: slopes {slopes}"
    assert abs(2 * later - earlier - order) < margin, f"slopes {slopes}, errors {errors}"
