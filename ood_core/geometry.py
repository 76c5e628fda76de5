"""Geometry of latents in high dimension, measured instead of typed in.

Independent draws of `N(mu, sigma^2 I)` in `d` dimensions lie at radius `sqrt(|mu|^2 + sigma^2 d)`,
at distance `sigma sqrt(2 d)` and subtend `acos(|mu|^2 / (|mu|^2 + sigma^2 d))` at the origin.
The published acceptance test compares with literals of one checkpoint (611.4, 88.0 and 60 degrees;
Zhu et al. 2023, reference code). Here the intervals come from draws of the very construct that is
tested, so that the test rejects outliers of the construct and not the construct.
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ood_core.arrays import Latents, PerSample

References = Float[Tensor, "m c y x"]


@final
@dataclass(frozen=True, slots=True)
class Interval:
    """Closed interval."""

    low: float
    high: float

    def holds(self, values: PerSample) -> Bool[Tensor, " n"]:
        """Which values lie inside."""
        return (values >= self.low) & (values <= self.high)


@final
@dataclass(frozen=True, slots=True)
class ShellGeometry:
    """Intervals of radius, mean distance to references and mean angle at the origin (degrees)."""

    radius: Interval
    distance: Interval
    origin_angle: Interval

    @classmethod
    def measure(
        cls, draws: Latents, references: References, widths: float = 5.0
    ) -> "ShellGeometry":
        """Mean plus or minus `widths` standard deviations of each statistic over the draws."""
        return cls(*(_interval(row, widths) for row in shell_statistics(draws, references)))

    def accepts(self, latents: Latents, references: References) -> Bool[Tensor, " n"]:
        """Which latents pass all three tests."""
        radius, distance, angle = shell_statistics(latents, references)
        return (
            self.radius.holds(radius)
            & self.distance.holds(distance)
            & self.origin_angle.holds(angle)
        )


def shell_statistics(latents: Latents, references: References) -> Float[Tensor, "3 n"]:
    """Radius, mean distance and mean origin angle (degrees) to the references, per latent."""
    z, r = latents.flatten(1).double(), references.flatten(1).double()
    radius = z.norm(dim=1)
    cosine = (z @ r.T) / (radius[:, None] * r.norm(dim=1))
    angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    return torch.stack([radius, torch.cdist(z, r).mean(dim=1), angle.mean(dim=1)])


def _interval(values: PerSample, widths: float) -> Interval:
    centre, spread = float(values.mean()), float(values.std())
    return Interval(centre - widths * spread, centre + widths * spread)
