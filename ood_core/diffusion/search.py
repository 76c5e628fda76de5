"""Decoding that prefers: of several ways to go on, one whose clean estimate scores well.

At every ancestral step `candidates` noises are drawn for each map, and one way is kept with
probability proportional to `exp(score / temperature)`, the score being that of the clean estimate
there (Li et al. 2024, SVDD, arXiv 2408.08252, algorithm 1 with the posterior mean as value). No
gradient goes through the network or the score. The estimate of the way that is kept is that of the
next step, so a step costs as many evaluations as there are candidates.
"""

import itertools
import math
from collections.abc import Callable

import torch

from ood_core.arrays import Latents, Maps, PerSample, TimeGrid
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.solvers import descending
from ood_core.numerics.random import SeedRange, Stream, normal, uniform


def search(
    denoiser: Denoiser,
    latents: Latents,
    grid: TimeGrid,
    seeds: SeedRange,
    score: Callable[[Maps], PerSample],
    candidates: int,
    temperature: float = 1.0,
) -> Maps:
    """Decode latents at the grid's last index; with one candidate this is ancestral sampling.

    Args:
        denoiser: gives the clean estimates.
        latents: one per seed.
        grid: rising time indices.
        seeds: of the samples; a map depends on its own seed alone if its score does.
        score: of clean estimates in model range, `(n, c, y, x)` to `(n,)`; more is better.
        candidates: ways that are tried per step.
        temperature: in units of the score; 0 keeps the best.

    Returns:
        The clean estimates at the grid's first index.
    """
    schedule, down = denoiser.schedule, descending(grid).tolist()
    x = latents * schedule.scale(down[0])
    clean = denoiser(x, down[0])
    for s, t in itertools.pairwise(down):
        r, q = schedule.noise_to_signal(s), schedule.noise_to_signal(t)
        keep, alpha = (q / r) ** 2, float(schedule.alpha[t])
        middle = keep * x / float(schedule.alpha[s]) + (1 - keep) * clean
        fresh = q * math.sqrt(1 - keep)
        ways, values = [], []
        for number in range(candidates):
            noise = normal(seeds, x.shape[1:], s * candidates + number, Stream.SOLVER, x.device)
            way = alpha * (middle + fresh * noise.to(x.dtype))
            ways.append((way, denoiser(way, t)))
            values.append(score(ways[-1][1]).to(x.device))
        kept = choose(torch.stack(values), seeds, s, temperature)
        x, clean = (
            torch.stack(part)[kept, torch.arange(len(x))] for part in zip(*ways, strict=True)
        )
    return clean


def choose(
    values: torch.Tensor, seeds: SeedRange, step: int, temperature: float = 1.0
) -> torch.Tensor:
    """Number of the way that each map keeps: the Gumbel trick draws it."""
    if temperature == 0:
        return values.argmax(dim=0)
    drawn = uniform(seeds, len(values), step, Stream.CHOICE).T.to(values)
    return (values / temperature - (-drawn.clamp_min(1e-30).log()).log()).argmax(dim=0)
