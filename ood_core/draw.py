"""Prior to latents: one draw per seed, redrawn while the measured geometry refuses it."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.geometry import ShellGeometry
from ood_core.priors.choice import Prior
from ood_core.seeds import SeedRange

ATTEMPTS = 20


@final
@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Latents and how many attempts each took; `ATTEMPTS` means that the last one was kept."""

    latents: Latents
    attempts: Int[Tensor, " n"]


def draw(prior: Prior, seeds: SeedRange, geometry: ShellGeometry, references: Latents) -> Draws:
    """Draw one accepted latent per seed; each sample's attempts depend on its own seed alone."""
    latents = prior.sample(seeds)
    attempts = torch.ones(len(seeds), dtype=torch.int64)
    refused = ~geometry.accepts(latents, references)
    for attempt in range(1, ATTEMPTS):
        for row in torch.nonzero(refused)[:, 0].tolist():
            alone = SeedRange(seeds.root, seeds.start + row, seeds.start + row + 1)
            latents[row] = prior.sample(alone, attempt)[0]
            attempts[row] = attempt + 1
        refused = refused & ~geometry.accepts(latents, references)
        if not bool(refused.any()):
            break
    return Draws(latents, attempts)
