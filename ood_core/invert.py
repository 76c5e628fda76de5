"""Targets to latents: the probability-flow ODE upward, with the round trip that proves it."""

from collections import deque
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import descending, last, onward
from ood_core.diffusion.paired import Bdia, OBelm, Pair
from ood_core.diffusion.solvers import Ddim, FixedPointDdim, Solver
from ood_core.diffusion.teleport import Shortcut
from ood_core.specs import InverterName

FAILED_MEDIANS = 5.0
"""A round trip fails only if it errs by this many times the median of its set."""
FEWEST_HELD = 4  # as a prior needs


@final
@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """Latents `x_t / sqrt(alpha_t^2 + sigma_t^2)` and what the round trip says of them.

    `error` is the root-mean-square round-trip error in model range, `residual` the largest relative
    fixed-point residual of any step, 0 for inverters that keep a pair. Those leave `before`, the
    neighbour at the grid's last index but one, scaled like a latent.
    """

    latents: Latents
    round_trip: Maps
    error: PerSample
    residual: PerSample
    before: Latents | None = None


def invert(
    denoiser: Denoiser,
    x0: Maps,
    grid: TimeGrid,
    passes: int,
    inverter: InverterName = "fixed_point",
    extra: int = 0,
    above: Shortcut | None = None,
    noise: Maps | None = None,
) -> Inversion:
    """Invert clean maps along an ascending grid and decode them again on the same grid.

    The clean map is taken as the point at the grid's first index, so that inversion and decoding
    are inverses of each other: up to the fixed-point residual, or up to rounding where a pair is
    kept. Above the grid the way up and down is that of the shortcut. White `noise` of the maps'
    shape, scaled to the first level, makes of them what a denoiser expects there; it is taken off
    again at the end of the way back.
    """
    schedule, top = denoiser.schedule, int(grid[-1])
    alpha = float(schedule.alpha[int(grid[0])])
    added = 0.0 if noise is None else schedule.noise_to_signal(int(grid[0])) * noise
    start = (x0 + added) * alpha
    if inverter == "fixed_point":
        solved = last(denoiser, FixedPointDdim(passes, extra), start, grid)
        end, neighbour, residual = solved.x, None, solved.residual
    else:
        pair = last(denoiser, _paired(inverter), start, grid)
        end, neighbour, residual = pair.x, pair.before, torch.zeros(len(x0))
    high = top if above is None else above.high
    latents = (end if above is None else above.up(end)) / schedule.scale(high)
    if above is not None:
        end = above.down(latents * schedule.scale(high))
    back = _back(denoiser, inverter, end, neighbour, grid) / alpha - added
    error = ((back - x0) ** 2).flatten(1).mean(dim=1).sqrt()
    before = None if neighbour is None else neighbour / schedule.scale(int(grid[-2]))
    return Inversion(latents, back, error, residual, before)


def held(error: PerSample, spread: PerSample, limit: float) -> Bool[Tensor, " n"]:
    """Which round trips hold; own rule.

    One fails if its error exceeds `limit` times the target's own standard deviation `spread` and
    `FAILED_MEDIANS` times the median error of the set. With `limit` 0 all hold; the best half and
    the best four always do.
    """
    if limit == 0:
        return torch.ones(len(error), dtype=torch.bool)
    best = error.sort().values[:FEWEST_HELD][-1]
    usual = torch.maximum(FAILED_MEDIANS * error.median(), best)
    return (error <= limit * spread) | (error <= usual)


def evaluations_per_target(inverter: InverterName, steps: int, passes: int) -> int:
    """Network evaluations of one inversion with its round trip, without extra passes."""
    return steps * (passes + 1) if inverter == "fixed_point" else 2 * steps - 1


def _back(
    denoiser: Denoiser, inverter: InverterName, end: Maps, neighbour: Maps | None, grid: TimeGrid
) -> Maps:
    """Down the grid again, by plain DDIM or from the pair."""
    if neighbour is None or inverter == "fixed_point":
        return last(denoiser, Ddim(), end, descending(grid))
    turned, solver = Pair(neighbour, end, int(grid[-1])), _paired(inverter)
    return deque(onward(denoiser, solver, turned, descending(grid[:-1])), maxlen=1)[0].x


def _paired(inverter: InverterName) -> Solver[Pair]:
    return Bdia() if inverter == "bdia" else OBelm()
