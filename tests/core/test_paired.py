"""Solvers that keep pairs: under the solvers' contract, and undone exactly by their own rule."""

from collections import deque
from typing import Any

import pytest
import torch

from ood_core.diffusion.flow import descending, last, onward
from ood_core.diffusion.paired import Bdia, OBelm, Pair
from ood_core.diffusion.solvers import Ddim, Solver
from ood_core.invert import invert
from tests.contracts.solver import SCHEDULE, SolverContract, grid_of, mixture_denoiser
from tests.oracles import mixture
from tests.strategies import randn


class TestBdia(SolverContract):
    return_order = 2
    uneven_order = 1  # a leapfrog, centred only where steps are equal

    @pytest.fixture
    def solver(self) -> Solver[Any]:
        return Bdia()


class TestBdiaUpward(TestBdia):
    descends = False


class TestOBelm(SolverContract):
    return_order = 2
    uneven_order = 1

    @pytest.fixture
    def solver(self) -> Solver[Any]:
        return OBelm()


class TestOBelmUpward(TestOBelm):
    descends = False


def targets() -> torch.Tensor:
    """Between and beyond the modes of the mixture, where a fixed point fails."""
    return 1.5 * randn(12, 1, 1, 2, seed=7) + torch.from_numpy(mixture.MEANS[0]).reshape(1, 1, 2)


@pytest.mark.parametrize("steps", [4, 16, 64])
@pytest.mark.parametrize("solver", [Bdia(), OBelm()], ids=["bdia", "obelm"])
def test_the_pair_leads_back_exactly(solver: Solver[Pair], steps: int) -> None:
    grid, x = grid_of(steps), targets() * float(SCHEDULE.alpha[0])
    pair = last(mixture_denoiser(), solver, x, grid)
    assert pair.before is not None
    turned = Pair(pair.before, pair.x, int(grid[-1]))
    way = onward(mixture_denoiser(), solver, turned, descending(grid[:-1]))
    back = deque(way, maxlen=1)[0].x
    # Coefficients multiply rounding of values below 100 by (g/b)^2 or its inverse per step.
    assert float((back - x).abs().max()) < 1e-9
    # Negative controls: from the end alone, and by plain DDIM, targets are lost.
    alone = last(mixture_denoiser(), solver, pair.x, descending(grid)).x
    plain = last(mixture_denoiser(), Ddim(), pair.x, descending(grid))
    assert float((alone - x).abs().max()) > 1e-3
    assert float((plain - x).abs().max()) > 1e-3


@pytest.mark.parametrize("inverter", ["bdia", "obelm"])
def test_inversion_keeps_the_pair_and_its_round_trip_is_exact(inverter: Any) -> None:
    grid = grid_of(16)
    found = invert(mixture_denoiser(), targets(), grid, 2, inverter)
    assert float(found.error.max()) < 1e-9
    assert found.before is not None
    solver = Bdia() if inverter == "bdia" else OBelm()
    pair = last(mixture_denoiser(), solver, targets() * float(SCHEDULE.alpha[0]), grid)
    assert torch.equal(found.latents * SCHEDULE.scale(int(grid[-1])), pair.x)
    assert pair.before is not None
    torch.testing.assert_close(found.before * SCHEDULE.scale(int(grid[-2])), pair.before)
    plain = invert(mixture_denoiser(), targets(), grid, 2)
    assert plain.before is None
    assert float(plain.error.max()) > 1e-2  # negative control: two passes do not do it here
