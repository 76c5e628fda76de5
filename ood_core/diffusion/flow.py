"""One integrator for both directions of the probability-flow ODE."""

import itertools
from collections import deque
from collections.abc import Iterator
from typing import TypeVar, final

import torch

from ood_core.arrays import Maps, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import Solver

State = TypeVar("State")


def integrate(
    denoiser: Denoiser, solver: Solver[State], x: Maps, grid: TimeGrid
) -> Iterator[State]:
    """Yield the state at every point of the grid, the start first; the caller keeps what it needs.

    An ascending grid inverts, a descending one decodes.
    """
    state = solver.init(x)
    yield state
    for s, t in itertools.pairwise(int(t) for t in grid):
        state = solver.step(denoiser, state, s, t)
        yield state


def last(denoiser: Denoiser, solver: Solver[State], x: Maps, grid: TimeGrid) -> State:
    """Return the state at the end of the grid."""
    return deque(integrate(denoiser, solver, x, grid), maxlen=1)[0]


@final
class CountingDenoiser:
    """A denoiser that counts how many maps have gone through it."""

    def __init__(self, inner: Denoiser) -> None:
        self._inner = inner
        self.nfe = 0

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of the denoiser inside."""
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the inner denoiser's answer, adding `n` to `nfe`."""
        self.nfe += len(x_t)
        return self._inner(x_t, t)


def descending(grid: TimeGrid) -> TimeGrid:
    """The same grid, from noise to data."""
    return torch.flip(grid, dims=(0,))
