"""Latents, one draw per seed, redrawn while the measured geometry refuses it."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Int
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.config.method import DrawSpec
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.constructs import Candidates, Construct
from ood_core.synthesis.shell_geometry import TESTS, ShellGeometry

ATTEMPTS = 20
GEOMETRY_DRAWS = 200
"""Enough draws to know a standard deviation to 5 %; the intervals are 5 of them wide."""
COUNTED = ("all", *TESTS)
"""What `Draws.refusals` counts: refused draws, and those that each test refused."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Accepted candidates and how many attempts each took, with how often which test refused.

    `ATTEMPTS` refusals mean that the last one was kept all the same.
    """

    kept: Candidates
    attempts: Int[Tensor, " n"]
    refusals: Int[Tensor, "n counted"]

    @property
    def latents(self) -> Latents:
        """The latents that were kept."""
        return self.kept.latents


def draw(
    construct: Construct, seeds: SeedRange, geometry: ShellGeometry, references: Latents
) -> Draws:
    """Draw one accepted latent per seed; each sample's attempts depend on its own seed alone."""
    kept = construct.sample(seeds)
    attempts = torch.ones(len(seeds), dtype=torch.int64)
    refusals = torch.zeros(len(seeds), len(COUNTED), dtype=torch.int64)
    open_rows = torch.ones(len(seeds), dtype=torch.bool)
    for attempt in range(ATTEMPTS):
        for row in torch.nonzero(open_rows)[:, 0].tolist() if attempt else ():
            alone = SeedRange(seeds.root, seeds.start + row, seeds.start + row + 1)
            again = construct.sample(alone, attempt)
            kept.latents[row] = again.latents[0]
            kept.sources[row], kept.weights[row] = again.sources[0], again.weights[0]
            attempts[row] = attempt + 1
        found = geometry.refusals(kept.latents, references, kept.used(len(references)))
        counted = torch.cat([found.any(dim=0, keepdim=True), found]) & open_rows
        refusals += counted.T
        open_rows = counted[0]
        if not bool(open_rows.any()):
            break
    return Draws(kept, attempts, refusals)


def measure_geometry(
    spec: DrawSpec | None, construct: Construct, root: int, references: Latents
) -> ShellGeometry:
    """Return the intervals of a method: of draws that no sample shares, or of the latents."""
    if spec is not None and spec.accept == "latents":
        return ShellGeometry.published(references)
    found = construct.sample(SeedRange(root, 0, GEOMETRY_DRAWS))
    used = found.used(len(references))
    return ShellGeometry.measure(found.latents, references, used=used)
