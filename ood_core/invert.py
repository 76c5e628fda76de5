"""Targets to latents: the probability-flow ODE upward, with the round trip that proves it."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import descending, last
from ood_core.diffusion.solvers import Ddim, FixedPointDdim
from ood_core.diffusion.teleport import Shortcut

FAILED_MEDIANS = 5.0
"""A round trip fails only if it errs by this many times the median of its set."""
MIN_HELD = 4  # as a prior needs


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


def invert(
    denoiser: Denoiser, x0: Maps, grid: TimeGrid, iterations: int, above: Shortcut | None = None
) -> Inversion:
    """Invert clean maps along an ascending grid and decode them again on the same grid.

    The clean map is taken as the point at the grid's first index, so that inversion and decoding
    are inverses of each other up to the fixed-point residual. Above the grid the way up and down is
    that of the shortcut.
    """
    schedule, top = denoiser.schedule, int(grid[-1])
    alpha = float(schedule.alpha[int(grid[0])])
    solved = last(denoiser, FixedPointDdim(iterations), x0 * alpha, grid)
    end, high = solved.x, top if above is None else above.high
    latents = (end if above is None else above.up(end)) / schedule.scale(high)
    if above is not None:
        end = above.down(latents * schedule.scale(high))
    back = last(denoiser, Ddim(), end, descending(grid)) / alpha
    error = ((back - x0) ** 2).flatten(1).mean(dim=1).sqrt()
    return Inversion(latents, back, error, solved.residual)


def held(error: PerSample, spread: PerSample, limit: float) -> Bool[Tensor, " n"]:
    """Which round trips hold; own rule.

    One fails if its error exceeds `limit` times the target's own standard deviation `spread` and
    `FAILED_MEDIANS` times the median error of the set. With `limit` 0 all hold; the best half and
    the best four always do.
    """
    if limit == 0:
        return torch.ones(len(error), dtype=torch.bool)
    best = error.sort().values[:MIN_HELD][-1]
    usual = torch.maximum(FAILED_MEDIANS * error.median(), best)
    return (error <= limit * spread) | (error <= usual)


def evaluations_per_target(steps: int, iterations: int) -> int:
    """Network evaluations of one inversion with its round trip."""
    return steps * (iterations + 1)
