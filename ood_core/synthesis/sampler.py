"""Draws, decodes and steers: sample `i` is a function of the root key and `i` alone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample
from ood_core.config.method import SteeringSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.calibrated import Labels
from ood_core.denoising.statistics import Plateaus, Statistics
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.numerics.random import SeedRange
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.latents import Draws, ShellGeometry, draw
from ood_core.synthesis.pipeline import Pipeline


@final
@dataclass(frozen=True, slots=True, eq=False)
class Samples:
    """A batch of samples: `maps` in model range, with where each came from.

    `maps` and `aim_distance` may lie on the device, the others lie on the host. `parents` are the
    two fit targets whose statistics set the aim, `sources` those whose latents it was made of.
    """

    seeds: SeedRange
    maps: Maps
    aim_distance: PerSample
    parents: Int[Tensor, "n 2"]
    attempts: Int[Tensor, " n"]
    refusals: Int[Tensor, "n tests"]
    sources: Int[Tensor, "n k"]
    source_weights: Float[Tensor, "n k"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """What a batch of samples begins with: latents, aims and clusters, drawn on the host."""

    seeds: SeedRange
    draws: Draws
    aim: Float[Tensor, "n f"]
    parents: Int[Tensor, "n 2"]
    labels: Labels


@final
class Sampler:
    """Draws, decodes and steers samples; sample `i` is a function of the root key and `i` alone.

    `latents` are those of the fit targets in `held`, whose round trip holds. `aims` are those that
    samples are steered towards.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prior: GaussianPrior,
        geometry: ShellGeometry,
        latents: Latents,
        held: Sequence[int],
    ) -> None:
        self._pipeline, self._latents = pipeline, latents
        self._geometry, self._held = geometry, torch.tensor(held)
        self._sampler = latent_sampler(pipeline.method.draw, prior, latents)
        seen, steering = pipeline.targets.fit_seen, pipeline.method.steering
        neighbours = steering.neighbours if steering is not None else 1
        symmetries = pipeline.targets.symmetries
        bins = radial_bins(steering, symmetries)
        plateaus = Plateaus.of(seen) if pipeline.method.quantization else None
        statistics = Statistics(seen.shape[-2], bins, seen.shape[-1], plateaus)
        aims = StatisticAims.measure(statistics, seen, symmetries, neighbours)
        self._statistics, self.aims = statistics.to(pipeline.device), aims.to(pipeline.device)
        self._labels = pipeline.labels(seen)

    def sample(self, seeds: SeedRange) -> Samples:
        """Make the samples of a range of seeds.

        Every sample has two parents, whether it is steered towards them or not: the first decides
        its cluster, and `aim_distance` is measured from the aim that both define.
        """
        return self.decoded(self.drawn(seeds))

    def drawn(self, seeds: SeedRange) -> Drawn:
        """Draw what the samples begin with; no work for the device."""
        draws = draw(self._sampler, seeds, self._geometry, self._latents)
        sources = self._held[draws.kept.sources]
        aim, parents = self.aims.draw(seeds, sources[:, 0] if sources.shape[1] else None)
        return Drawn(seeds, draws, aim, parents, self._labels[parents[:, 0]])

    def decoded(self, drawn: Drawn) -> Samples:
        """Decode on the device, in as few parts as its memory has room for.

        Raises:
            DeviceFull: it has none for a single map.
        """
        parts = self._pipeline.memory(partial(self._decoded, drawn), len(drawn.seeds))
        maps, distances = (torch.cat(column) for column in zip(*parts, strict=True))
        return Samples(
            seeds=drawn.seeds,
            maps=maps,
            aim_distance=distances,
            parents=drawn.parents,
            attempts=drawn.draws.attempts,
            refusals=drawn.draws.refusals,
            sources=self._held[drawn.draws.kept.sources],
            source_weights=drawn.draws.kept.weights,
        )

    def _decoded(self, drawn: Drawn, part: slice) -> tuple[Maps, PerSample]:
        pipeline, aim = self._pipeline, drawn.aim[part]
        first = drawn.seeds.start
        seeds = replace(drawn.seeds, start=first + part.start, stop=first + part.stop)
        plain, steered = self._denoisers(seeds, aim, drawn.labels[part])
        denoiser = plain if pipeline.method.steering is None else steered
        made = pipeline.decode(denoiser, drawn.draws.latents[part].to(pipeline.device), seeds)
        return pipeline.maps(made), steered.distance(made)

    def denoiser(self, seeds: SeedRange, worth: Float[Tensor, " m"] | None = None) -> Denoiser:
        """The denoiser of a batch of samples: steered, if the method steers.

        `worth` has a number per image of the targets, see `StatisticAims.draw`.
        """
        aim, parents = self.aims.draw(seeds, worth=worth)
        plain, steered = self._denoisers(seeds, aim, self._labels[parents[:, 0]])
        return plain if self._pipeline.method.steering is None else steered

    def _denoisers(
        self, seeds: SeedRange, aim: Float[Tensor, "n f"], labels: Labels
    ) -> tuple[Denoiser, SteeredDenoiser]:
        """Denoisers of a batch without and with steering."""
        pipeline, spec = self._pipeline, self._pipeline.method.steering or SteeringSpec()
        plain, steps = pipeline.denoiser(labels), pipeline.timesteps.tolist()[::-1]
        steered = SteeredDenoiser(plain, self._statistics, aim, self.aims, spec, seeds, steps)
        return plain, steered


def radial_bins(steering: SteeringSpec | None, symmetries: Sequence[Symmetry]) -> int:
    """Number of rings whose means are steered; 0 where maps have no centre."""
    return 0 if steering is None or "translate" in symmetries else steering.radial_bins
