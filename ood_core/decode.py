"""Latents to maps: the probability-flow ODE downward."""

from ood_core.arrays import Latents, Maps, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import descending, last
from ood_core.diffusion.solvers import Ddim, DpmSolver2M, Heun
from ood_core.specs import SolverName


def decode(denoiser: Denoiser, solver: SolverName, latents: Latents, grid: TimeGrid) -> Maps:
    """Decode latents at the grid's last index to maps in model range."""
    start = latents * denoiser.schedule.scale(int(grid[-1]))
    down = descending(grid)
    match solver:
        case "ddim":
            end = last(denoiser, Ddim(), start, down)
        case "heun":
            end = last(denoiser, Heun(), start, down)
        case "dpmpp_2m":
            end = last(denoiser, DpmSolver2M(), start, down).x
    return end / float(denoiser.schedule.alpha[int(grid[0])])
