"""Draws, decodes and steers: sample `i` is a function of the root key and `i` alone."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Latents, Maps, PerSample
from ood_core.config.method import SteeringSpec
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.calibrated import Labels
from ood_core.denoising.coarse import CoarseDenoiser
from ood_core.denoising.completed import LIMITS, CompletedDenoiser, Completions
from ood_core.denoising.plateaus import FrontDenoiser, Fronts, Plateaus
from ood_core.denoising.statistics import Taper
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.search import choose, search
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.numerics.random import Root, SeedRange
from ood_core.synthesis.latent_samplers import latent_sampler
from ood_core.synthesis.latents import Draws, ShellGeometry, draw
from ood_core.synthesis.pipeline import Pipeline, statistics_of
from ood_core.synthesis.preference import Preference


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
    """What a batch of samples begins with: latents, aims and clusters, drawn on the host.

    `others` are other ways down from the same latents, with noise and aims of their own. `coarse`
    is what the coarse maps begin with that are drawn first, if any are.
    """

    seeds: SeedRange
    draws: Draws
    aim: Float[Tensor, "n f"]
    parents: Int[Tensor, "n 2"]
    labels: Labels
    others: "tuple[Drawn, ...]" = ()
    coarse: "Drawn | None" = None

    def aimed(self, at: Int[Tensor, " n"]) -> "Drawn":
        """The same where sample `i` goes towards the aim of sample `at[i]`."""
        aim, coarse = self.aim[at.to(self.aim.device)], self.coarse and self.coarse.aimed(at)
        parents, labels = self.parents[at], self.labels[at]
        return replace(self, aim=aim, parents=parents, labels=labels, coarse=coarse)


@final
class Sampler:
    """Draws, decodes and steers samples; sample `i` is a function of the root key and `i` alone.

    `latents` are those of the fit targets in `held`, whose round trip holds. `aims` are those that
    samples are steered towards. `preference` is what the method says that the user wishes. Where
    there is a `coarse` sampler, of coarse targets, its maps are drawn first, towards aims of the
    same targets, and samples are held to them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        prior: GaussianPrior,
        geometry: ShellGeometry,
        latents: Latents,
        held: Sequence[int],
        coarse: "Sampler | None" = None,
    ) -> None:
        self._pipeline, self._latents, self._coarse = pipeline, latents, coarse
        self._geometry, self._held = geometry, torch.tensor(held)
        self._sampler = latent_sampler(pipeline.method.draw, prior, latents)
        seen, symmetries = pipeline.targets.fit_seen, pipeline.targets.symmetries
        self._plateaus = Plateaus.of(seen) if pipeline.method.quantization else None
        self._fronts: Fronts | None = None
        if self._plateaus is not None:
            fronts = Fronts.of(seen, symmetries, self._plateaus, pipeline.root)
            self._fronts = fronts.to(pipeline.device)
        self._measure_aims(None)
        self._completions = self._completed()
        self._labels = pipeline.labels(seen)
        steer = pipeline.method.steer
        self._preference = None if steer is None else Preference.of(pipeline, steer)

    def _measure_aims(self, taper: Taper | None) -> None:
        pipeline = self._pipeline
        seen, steering = pipeline.targets.fit_seen, pipeline.method.steering
        neighbours = steering.neighbours if steering is not None else 1
        symmetries = pipeline.targets.symmetries
        statistics = statistics_of(pipeline, seen, self._plateaus, taper)
        aims = StatisticAims.measure(statistics, seen, symmetries, neighbours)
        self._statistics, self.aims = statistics.to(pipeline.device), aims.to(pipeline.device)

    def _completed(self) -> Completions | None:
        """What estimates get on a random way down whose calibration says what they leave."""
        pipeline = self._pipeline
        weights, experts = pipeline.weights, pipeline.experts
        if experts is None or weights is None or weights.left is None:
            return None
        if pipeline.method.solver != "ancestral":
            return None
        schedule, spectra = pipeline.base.schedule, {}
        for t in pipeline.timesteps.tolist():
            noise = schedule.noise_to_signal(t)
            if (left := weights.left_at(noise)) is None:
                return None
            spectra[t] = left.at(self.aims.power, noise)
        # What is judged in one step says little of fronts, on which the next step decides anew.
        limit = LIMITS[0] if self._plateaus is not None else weights.left.limit()
        mean, local = experts.gaussian.mean, self.aims.local
        return Completions.of(spectra, schedule, limit, mean, local)

    def tapered(self, taper: Taper) -> "Sampler":
        """The same, steered towards statistics of targets that fade at their borders."""
        made = copy(self)
        made._measure_aims(taper)
        return made

    def preferring(self, preference: Preference | None) -> "Sampler":
        """The same sampler with other wishes, or with none."""
        made = copy(self)
        made._preference = preference
        return made

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
        near = sources[:, 0] if sources.shape[1] else None
        first, *others = (self._drawn(one, draws, near) for one in self._ways(seeds))
        return replace(first, others=tuple(others))

    def _drawn(self, seeds: SeedRange, draws: Draws, near: Int[Tensor, " n"] | None) -> Drawn:
        first = self if self._coarse is None else self._coarse
        of_aims = self._preference and self._preference.of_aims
        return self._towards(seeds, draws, *first.aims.choose(seeds, near, of_aims))

    def _towards(
        self,
        seeds: SeedRange,
        draws: Draws,
        rows: Int[Tensor, "n k"],
        shares: Float[Tensor, "n k"],
    ) -> Drawn:
        """What samples begin with that go towards mixtures of targets' statistics."""
        aim, parents = self.aims.mixed(rows, shares)
        below: Drawn | None = None
        if (coarse := self._coarse) is not None:
            own = replace(seeds, root=Root(seeds.root).child("coarse").key)
            latents = draw(coarse._sampler, own, coarse._geometry, coarse._latents)
            below = coarse._towards(own, latents, rows, shares)
        return Drawn(seeds, draws, aim, parents, self._labels[parents[:, 0]], coarse=below)

    def _ways(self, seeds: SeedRange) -> list[SeedRange]:
        """The seeds, and those of other whole ways down that are tried."""
        wished = self._preference
        count = wished.candidates if wished is not None and wished.whole else 1
        root = Root(seeds.root)
        others = (root.child("way", str(number)).key for number in range(1, count))
        return [seeds, *(replace(seeds, root=key) for key in others)]

    def decoded(self, drawn: Drawn) -> Samples:
        """Decode on the device, in as few parts as its memory has room for.

        Raises:
            DeviceFull: it has none for a single map.
        """
        ways = (drawn, *drawn.others)
        made = [self._pipeline.memory(partial(self._decoded, way), len(way.seeds)) for way in ways]
        columns = ([torch.cat(column) for column in zip(*way, strict=True)] for way in made)
        maps, distances = (torch.stack(column) for column in zip(*columns, strict=True))
        parents = torch.stack([way.parents for way in ways])
        kept = self._kept(drawn.seeds, maps), torch.arange(len(drawn.seeds))
        there = tuple(index.to(maps.device) for index in kept)
        return Samples(
            seeds=drawn.seeds,
            maps=maps[there],
            aim_distance=distances[there],
            parents=parents[kept],
            attempts=drawn.draws.attempts,
            refusals=drawn.draws.refusals,
            sources=self._held[drawn.draws.kept.sources],
            source_weights=drawn.draws.kept.weights,
        )

    def _kept(self, seeds: SeedRange, maps: Float[Tensor, "ways n c y x"]) -> Int[Tensor, " n"]:
        """Number of the way that each sample keeps."""
        if len(maps) == 1 or self._preference is None:
            return torch.zeros(len(seeds), dtype=torch.int64)
        weights = torch.stack([self._preference.of_ranged(way) for way in maps])
        return choose(weights, seeds, 0)

    def _decoded(self, drawn: Drawn, part: slice) -> tuple[Maps, PerSample]:
        pipeline, aim = self._pipeline, drawn.aim[part]
        first = drawn.seeds.start
        seeds = replace(drawn.seeds, start=first + part.start, stop=first + part.stop)
        means = self._means(drawn, part)
        plain, steered = self._denoisers(seeds, aim, drawn.labels[part], means)
        denoiser: Denoiser = plain if pipeline.method.steering is None else steered
        if means is not None and denoiser is steered:
            denoiser = CoarseDenoiser(steered, means, self.aims.power)
        latents = drawn.draws.latents[part].to(pipeline.device)
        wished = self._preference
        if wished is None or wished.whole:
            made = pipeline.decode(denoiser, latents, seeds)
        else:
            grid = pipeline.timesteps
            made = search(denoiser, latents, grid, seeds, wished.of_seen, wished.candidates)
        return pipeline.maps(made), steered.distance(made)

    def _means(self, drawn: Drawn, part: slice) -> Maps | None:
        """The coarse maps that samples are held to, drawn now."""
        if self._coarse is None or drawn.coarse is None:
            return None
        made, _ = self._coarse._decoded(drawn.coarse, part)
        return self._coarse._pipeline.targets.linear(made)

    def denoiser(self, seeds: SeedRange) -> Denoiser:
        """The denoiser of a batch of samples: steered, if the method steers."""
        aim, parents = self.aims.draw(seeds)
        plain, steered = self._denoisers(seeds, aim, self._labels[parents[:, 0]])
        return plain if self._pipeline.method.steering is None else steered

    def _denoisers(
        self,
        seeds: SeedRange,
        aim: Float[Tensor, "n f"],
        labels: Labels,
        means: Maps | None = None,
    ) -> tuple[Denoiser, SteeredDenoiser]:
        """Denoisers of a batch without and with steering."""
        pipeline, spec = self._pipeline, self._pipeline.method.steering or SteeringSpec()
        plain, steps = pipeline.denoiser(labels), pipeline.timesteps.tolist()[::-1]
        if self._fronts is not None:
            plain = FrontDenoiser(plain, self._fronts)
        if self._completions is not None:
            plain = CompletedDenoiser(plain, self._completions, seeds, steps)
        if means is not None:
            plain = CoarseDenoiser(plain, means, self.aims.power)
        steered = SteeredDenoiser(plain, self._statistics, aim, self.aims, spec, seeds)
        return plain, steered
