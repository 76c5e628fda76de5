"""Latents, one draw per seed, redrawn while the measured geometry refuses it.

Independent draws of `N(mu, sigma^2 I)` in `d` dimensions lie at radius `sqrt(|mu|^2 + sigma^2 d)`,
at distance `sigma sqrt(2 d)`, subtend `acos(|mu|^2 / (|mu|^2 + sigma^2 d))` at the origin and 60
degrees at one another. The published acceptance test compares with constants of one checkpoint
(611.4, 88.0 and 60 degrees; Zhu et al. 2023, reference code). Here intervals are measured: on
draws of the sampler that is tested, so that its outliers are refused and not the sampler; or, as
published, on the latents themselves, each against the others.
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ood_core.arrays import Latents, PerSample
from ood_core.config.method import DrawSpec
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.latent_samplers import Candidates, LatentSampler

References = Float[Tensor, "m c y x"]
Used = Bool[Tensor, "n m"]

TESTS = ("radius", "distance", "origin_angle", "pair_angle")


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
    """Intervals of radius, and of mean distance, origin angle and pair angle to references.

    Angles are in degrees: at the origin between latent and reference, and at the latent between two
    references. A test that is None is not made.
    """

    radius: Interval | None
    distance: Interval | None
    origin_angle: Interval | None
    pair_angle: Interval | None = None

    @classmethod
    def measure(
        cls, draws: Latents, references: References, widths: float = 5.0, used: Used | None = None
    ) -> "ShellGeometry":
        """Mean plus or minus `widths` standard deviations of each statistic over the draws.

        `used` marks the references that a draw was made of; its statistics leave those out.
        """
        found = shell_statistics(draws, references, used)
        return cls(*(_interval(row, widths) for row in found))

    @classmethod
    def published(cls, latents: Latents, widths: float = 3.0) -> "ShellGeometry":
        """The published three tests, measured on the latents, each against all others.

        Means over all others stand for those over ten random ones in the reference code.
        """
        itself = torch.eye(len(latents), dtype=torch.bool)
        _, distance, angle = shell_statistics(latents, latents, itself)
        pairs = pair_angles(latents, latents, itself)
        return cls(None, *(_interval(row, widths) for row in (distance, angle, pairs)))

    def refusals(
        self, latents: Latents, references: References, used: Used | None = None
    ) -> Bool[Tensor, "tests n"]:
        """Which of `TESTS` refuses which latent."""
        shell = shell_statistics(latents, references, used)
        tests = [(self.radius, shell[0]), (self.distance, shell[1]), (self.origin_angle, shell[2])]
        if self.pair_angle is not None:
            tests.append((self.pair_angle, pair_angles(latents, references, used)))
        refused = torch.zeros(len(TESTS), len(latents), dtype=torch.bool)
        for row, (interval, values) in enumerate(tests):
            if interval is not None:
                refused[row] = ~interval.holds(values)
        return refused


def shell_statistics(
    latents: Latents, references: References, used: Used | None = None
) -> Float[Tensor, "3 n"]:
    """Radius, mean distance and mean origin angle (degrees) to the references, per latent."""
    z, r = latents.flatten(1).double(), references.flatten(1).double()
    radius = z.norm(dim=1)
    cosine = (z @ r.T) / (radius[:, None] * r.norm(dim=1))
    angle = torch.rad2deg(torch.arccos(cosine.clamp(-1, 1)))
    return torch.stack([radius, _mean(torch.cdist(z, r), used), _mean(angle, used)])


def pair_angles(
    latents: Latents, references: References, used: Used | None = None
) -> Float[Tensor, " n"]:
    """Mean angle at each latent between two references, degrees, over all pairs of them.

    By the law of cosines, from distances alone. At least two references must not be `used`.
    """
    z, r = latents.flatten(1).double(), references.flatten(1).double()
    sides, across = torch.cdist(z, r), torch.cdist(r, r)
    means = []
    for row, side in enumerate(sides):
        left = torch.arange(len(r)) if used is None else torch.nonzero(~used[row])[:, 0]
        i, j = left[torch.combinations(torch.arange(len(left)))].T
        cosine = side[i] ** 2 + side[j] ** 2 - across[i, j] ** 2
        cosine = cosine / (2 * side[i] * side[j]).clamp_min(1e-300)
        means.append(torch.rad2deg(torch.arccos(cosine.clamp(-1, 1))).mean())
    return torch.stack(means)


def _mean(values: Float[Tensor, "n m"], used: Used | None) -> PerSample:
    """Mean over the references that are not used."""
    if used is None:
        return values.mean(dim=1)
    return torch.where(used, 0, values).sum(dim=1) / (~used).sum(dim=1)


def _interval(values: PerSample, widths: float) -> Interval:
    centre, spread = float(values.mean()), float(values.std())
    return Interval(centre - widths * spread, centre + widths * spread)


ATTEMPTS = 20
GEOMETRY_DRAWS = 200
"""Enough draws to know a standard deviation to 5 %; the intervals are 5 of them wide."""
COUNTED = ("all", *TESTS)
"""What `Draws.refusals` counts: refused draws, and those that each test refused."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Draws:
    """Accepted candidates, the attempts that each took, and how often each test refused.

    After `ATTEMPTS` refusals the last draw is kept all the same.
    """

    kept: Candidates
    attempts: Int[Tensor, " n"]
    refusals: Int[Tensor, "n counted"]

    @property
    def latents(self) -> Latents:
        """The latents that were kept."""
        return self.kept.latents


def draw(
    sampler: LatentSampler, seeds: SeedRange, geometry: ShellGeometry, references: Latents
) -> Draws:
    """Draw one accepted latent per seed; each sample's attempts depend on its own seed alone."""
    kept = sampler.sample(seeds)
    attempts = torch.ones(len(seeds), dtype=torch.int64)
    refusals = torch.zeros(len(seeds), len(COUNTED), dtype=torch.int64)
    refused = torch.ones(len(seeds), dtype=torch.bool)
    for attempt in range(ATTEMPTS):
        for row in torch.nonzero(refused)[:, 0].tolist() if attempt else ():
            alone = replace(seeds, start=seeds.start + row, stop=seeds.start + row + 1)
            again = sampler.sample(alone, attempt)
            kept.latents[row] = again.latents[0]
            kept.sources[row], kept.weights[row] = again.sources[0], again.weights[0]
            attempts[row] = attempt + 1
        found = geometry.refusals(kept.latents, references, kept.used(len(references)))
        counted = torch.cat([found.any(dim=0, keepdim=True), found]) & refused
        refusals += counted.T
        refused = counted[0]
        if not bool(refused.any()):
            break
    return Draws(kept, attempts, refusals)


def measure_geometry(
    spec: DrawSpec | None, sampler: LatentSampler, root: int, references: Latents
) -> ShellGeometry:
    """Measure the intervals of a method: on draws that no sample shares, or on the latents."""
    if spec is not None and spec.accept == "latents":
        return ShellGeometry.published(references)
    found = sampler.sample(SeedRange(root, 0, GEOMETRY_DRAWS))
    used = found.used(len(references))
    return ShellGeometry.measure(found.latents, references, used=used)
