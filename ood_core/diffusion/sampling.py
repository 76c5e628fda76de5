"""Decoding and inversion: latents to maps, and targets to latents with their round trip."""

from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from jaxtyping import Bool
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid
from ood_core.config.method import SolverName
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.solvers import (
    Ddim,
    FixedPointDdim,
    Solver,
    StochasticDdim,
    descending,
    last,
)
from ood_core.diffusion.teleport import Shortcut
from ood_core.numerics.random import SeedRange, StepNoise, Stream


class SolverClass(Protocol):
    """A class of solvers; one that adds noise is built from it, and from `eta` if it has one."""

    @property
    def nfe_per_step(self) -> int:
        """Network evaluations per step, per map."""
        ...

    @property
    def adds_noise(self) -> bool:
        """Whether steps draw fresh noise."""
        ...

    def __call__(self, *noise: Any) -> Solver[Any]:
        """Build a solver."""
        ...


SOLVERS: dict[SolverName, SolverClass] = {
    "ddim": Ddim,
    "ancestral": StochasticDdim,
}
"""Every solver that decodes, by name."""
WITH_ETA: dict[SolverName, SolverClass] = {"ddim": StochasticDdim}
"""Solvers with a share `eta` of fresh noise above 0, by the name that `eta` goes with."""


def decode(
    denoiser: Denoiser,
    solver: SolverName,
    latents: Latents,
    grid: TimeGrid,
    seeds: SeedRange | None = None,
    eta: float = 0.0,
    shortcut: Shortcut | None = None,
) -> Maps:
    """Decode latents at the grid's last index, or at a shortcut's upper end, to model range.

    Solvers that add noise end with the clean estimate at the grid's first index, the others with
    the point there.

    Raises:
        ValueError: no such solver, or one that adds noise has no `seeds`, one per latent, to draw
            from.
    """
    schedule, kind = denoiser.schedule, solver_class(solver, eta)
    if shortcut is None:
        start = latents * schedule.scale(int(grid[-1]))
    else:
        start = shortcut.down(latents * schedule.scale(shortcut.high))
    down, first = descending(grid), int(grid[0])
    if not kind.adds_noise:
        walker = kind()
        end = walker.read(last(denoiser, walker, start, down))
        return end / float(schedule.alpha[first])
    if seeds is None or len(seeds) != len(latents):
        raise ValueError(f"got seeds {seeds} for {len(latents)} latents; expected as many")
    noise = StepNoise(seeds, Stream.SOLVER, down.tolist()[:-1])
    noisy = kind(noise, eta) if eta else kind(noise)
    return denoiser(noisy.read(last(denoiser, noisy, start, down)), first)


def solver_class(solver: SolverName, eta: float = 0.0) -> SolverClass:
    """The class of a solver with a share `eta` of fresh noise.

    Raises:
        ValueError: no such solver, or one that takes no `eta`.
    """
    table = WITH_ETA if eta else SOLVERS
    if solver not in table:
        raise ValueError(f"got the solver {solver} with eta {eta}; expected {', '.join(table)}")
    return table[solver]


def evaluations_per_map(solver: SolverName, steps: int, eta: float = 0.0) -> int:
    """Network evaluations that decoding one map takes; one that adds noise ends with one more."""
    kind = solver_class(solver, eta)
    return kind.nfe_per_step * steps + int(kind.adds_noise)


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
    denoiser: Denoiser, x0: Maps, grid: TimeGrid, iterations: int, shortcut: Shortcut | None = None
) -> Inversion:
    """Invert clean maps along an ascending grid and decode them again on the same grid.

    The clean map is taken as the point at the grid's first index, so that inversion and decoding
    are inverses of each other up to the fixed-point residual. A shortcut leads
    from the grid's last index further up, and back.
    """
    schedule, top = denoiser.schedule, int(grid[-1])
    alpha = float(schedule.alpha[int(grid[0])])
    solved = last(denoiser, FixedPointDdim(iterations), x0 * alpha, grid)
    end, high = solved.x, top if shortcut is None else shortcut.high
    latents = (end if shortcut is None else shortcut.up(end)) / schedule.scale(high)
    if shortcut is not None:
        end = shortcut.down(latents * schedule.scale(high))
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
