"""Targets to latents: the probability-flow ODE upward, with the round trip that proves it."""

from dataclasses import dataclass
from typing import final

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import descending, last
from ood_core.diffusion.solvers import Ddim, FixedPointDdim


@final
@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """Latents `x_t / sqrt(alpha_t^2 + sigma_t^2)` and what the round trip says of them.

    `error` is the root-mean-square round-trip error in model range, `residual` the largest relative
    fixed-point residual of any step.
    """

    latents: Latents
    round_trip: Maps
    error: PerSample
    residual: PerSample


def invert(denoiser: Denoiser, x0: Maps, grid: TimeGrid, passes: int) -> Inversion:
    """Invert clean maps along an ascending grid and decode them again on the same grid.

    The clean map is taken as the point at the grid's first index, so that inversion and decoding
    are inverses of each other up to the fixed-point residual.
    """
    schedule = denoiser.schedule
    start = x0 * float(schedule.alpha[int(grid[0])])
    state = last(denoiser, FixedPointDdim(passes), start, grid)
    back = last(denoiser, Ddim(), state.x, descending(grid)) / float(schedule.alpha[int(grid[0])])
    error = ((back - x0) ** 2).flatten(1).mean(dim=1).sqrt()
    return Inversion(state.x / schedule.scale(int(grid[-1])), back, error, state.residual)
