"""Latents to maps: the flow downward."""

from ood_core.arrays import Latents, Maps, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.flow import descending, last
from ood_core.diffusion.solvers import Ancestral, Ddim, DpmSolver2M, Heun
from ood_core.seeds import SeedRange
from ood_core.specs import SolverName


def decode(
    denoiser: Denoiser,
    solver: SolverName,
    latents: Latents,
    grid: TimeGrid,
    seeds: SeedRange | None = None,
) -> Maps:
    """Decode latents at the grid's last index to maps in model range.

    The ancestral solver ends with the clean estimate at the grid's first index, the others with the
    point there.

    Raises:
        ValueError: the ancestral solver has no `seeds`, one per latent, to draw from.
    """
    start = latents * denoiser.schedule.scale(int(grid[-1]))
    down, first = descending(grid), int(grid[0])
    match solver:
        case "ancestral":
            if seeds is None or len(seeds) != len(latents):
                raise ValueError(f"got seeds {seeds} for {len(latents)} latents; expected as many")
            return denoiser(last(denoiser, Ancestral(seeds), start, down), first)
        case "ddim":
            end = last(denoiser, Ddim(), start, down)
        case "heun":
            end = last(denoiser, Heun(), start, down)
        case "dpmpp_2m":
            end = last(denoiser, DpmSolver2M(), start, down).x
    return end / float(denoiser.schedule.alpha[first])
