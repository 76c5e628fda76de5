"""Decoding and inversion: latents to maps, and targets to latents with their round trip."""

from dataclasses import dataclass
from typing import Any, assert_never, final

import torch
from jaxtyping import Bool
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid
from ood_core.config.method import SolverName
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.solvers import (
    Ddim,
    DpmSolver2M,
    DpmSolver2MSde,
    FixedPointDdim,
    Heun,
    Solver,
    StochasticDdim,
    descending,
    last,
)
from ood_core.diffusion.teleport import Shortcut
from ood_core.numerics.random import SeedRange


def decode(
    denoiser: Denoiser,
    solver: SolverName,
    latents: Latents,
    grid: TimeGrid,
    seeds: SeedRange | None = None,
    eta: float = 0.0,
    above: Shortcut | None = None,
) -> Maps:
    """Decode latents at the grid's last index, or above a shortcut, to maps in model range.

    Solvers that add noise (`ancestral`, `dpmpp_2m_sde`, and `ddim` with `eta` above 0) end with the
    clean estimate at the grid's first index, the others with the point there.

    Raises:
        ValueError: a solver that adds noise has no `seeds`, one per latent, to draw from.
    """
    schedule = denoiser.schedule
    if above is None:
        start = latents * schedule.scale(int(grid[-1]))
    else:
        start = above.down(latents * schedule.scale(above.high))
    down, first = descending(grid), int(grid[0])
    if not is_stochastic(solver, eta):
        walker = _deterministic(solver)
        end = walker.read(last(denoiser, walker, start, down))
        return end / float(schedule.alpha[first])
    if seeds is None or len(seeds) != len(latents):
        raise ValueError(f"got seeds {seeds} for {len(latents)} latents; expected as many")
    noisy = _stochastic(solver, seeds, eta)
    return denoiser(noisy.read(last(denoiser, noisy, start, down)), first)


def is_stochastic(solver: SolverName, eta: float) -> bool:
    """Whether a solver adds noise, and so ends with one more evaluation."""
    return solver in ("ancestral", "dpmpp_2m_sde") or eta > 0


def evaluations_per_map(solver: SolverName, steps: int, eta: float = 0.0) -> int:
    """Network evaluations that decoding one map takes."""
    return (2 if solver == "heun" else 1) * steps + int(is_stochastic(solver, eta))


def _deterministic(solver: SolverName) -> Solver[Any]:
    match solver:
        case "heun":
            return Heun()
        case "dpmpp_2m":
            return DpmSolver2M()
        case "ddim":
            return Ddim()
        case "ancestral" | "dpmpp_2m_sde":
            raise ValueError(f"got the solver {solver}, which adds noise; expected one without")
        case _:
            assert_never(solver)


def _stochastic(solver: SolverName, seeds: SeedRange, eta: float) -> Solver[Any]:
    match solver:
        case "ancestral":
            return StochasticDdim(seeds)
        case "ddim":
            return StochasticDdim(seeds, eta)
        case "dpmpp_2m_sde":
            return DpmSolver2MSde(seeds)
        case "heun" | "dpmpp_2m":
            raise ValueError(f"got eta {eta} for the solver {solver}; only ddim takes one")
        case _:
            assert_never(solver)


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
