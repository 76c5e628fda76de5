"""How rough targets are where they are faint, and where they are bright."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.denoising.hats import brightness_edges, brightness_hats
from ood_core.metrics.detail import local_mean


@final
@dataclass(frozen=True, slots=True, eq=False)
class LocalDetail:
    """Spread of detail, a map minus its 3 x 3 means, over its spread in all.

    `spread` is that where the local mean has the brightness of one of `edges`.
    """

    edges: Float[Tensor, " bins"]
    spread: Float[Tensor, " bins"]

    @classmethod
    def measure(cls, targets: Maps) -> "LocalDetail":
        """Measure on targets."""
        smooth = local_mean(targets)
        edges = brightness_edges(smooth)
        return cls(edges, relative_detail(targets - smooth, brightness_hats(smooth, edges)))

    def __call__(self, estimate: Maps) -> Maps:
        """Return the spread at the brightness of each pixel's surroundings."""
        hats = brightness_hats(local_mean(estimate), self.edges)
        return torch.einsum("bncyx,b->ncyx", hats, self.spread)

    def to(self, device: torch.device | str) -> "LocalDetail":
        """Move to a device."""
        return LocalDetail(self.edges.to(device), self.spread.to(device))


def relative_detail(detail: Maps, hats: Float[Tensor, "bins n c y x"]) -> Float[Tensor, " bins"]:
    """Spread of detail in every bin of brightness over its spread in all."""
    pixels = hats.flatten(1).sum(1).clamp_min(1e-9)
    power = (hats * detail.square()).flatten(1).sum(1) / pixels
    return (power / detail.square().mean().clamp_min(1e-12)).sqrt()
