"""Latents to maps: the flow downward."""

from typing import Any, assert_never

from ood_core.arrays import Latents, Maps, TimeGrid
from ood_core.config.method import SolverName
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import descending, last
from ood_core.diffusion.solvers import Ddim, DpmSolver2M, Heun, Solver
from ood_core.diffusion.stochastic import DpmSolver2MSde, StochasticDdim
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
