"""Fields of any size from targets that are the same everywhere.

A field begins as a Gaussian one of the targets' spectrum, noised to the top of the grid, and is
denoised in overlapping windows (`ood_core.denoising.windowed`), each steered towards an aim of its
own. Waves longer than the targets stay as they begin: Gaussian, of a power between that of the
targets' longest waves and that of their means.

Statistics of windows and of targets are those under the weights by which windows are added. Without
that, part of a target's power is the step from one of its borders to the border opposite, and
windows whose borders agree more than those of their aim's target were given straight edges instead.
"""

from collections.abc import Iterator
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from ood_core.arrays import Latents, Map, Maps
from ood_core.denoising.statistics import Taper
from ood_core.denoising.windowed import WindowedDenoiser, corners, weights
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import decode, evaluations_per_map
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import InputError
from ood_core.numerics.covariance import filtered, wavenumbers
from ood_core.numerics.random import SeedRange, Stream, normal, root_key
from ood_core.synthesis.pipeline import Each, Pipeline
from ood_core.synthesis.sampler import Sampler

UNIFORM = 5.0
"""Most that the mean map may vary, in variances that a mean of as many maps has: four free waves
exceed it in 4 of 10,000 sets."""


@final
class FieldMaker:
    """Makes fields for a fitted pipeline; `batch` windows are denoised at once."""

    def __init__(self, pipeline: Pipeline, sampler: Sampler, batch: int) -> None:
        self._pipeline, self._batch = pipeline, batch
        seen = pipeline.targets.fit_seen
        self._mean = seen.mean((0, 2, 3), keepdim=True)[0]
        self._window = (seen.shape[-2], seen.shape[-1])
        self._sampler = sampler
        if pipeline.method.steering is not None:
            self._sampler = sampler.tapered(Taper(self._mean, weights(self._window)))
        self._half = (seen.shape[-2] // 2, seen.shape[-1] // 2)

    @property
    def varies(self) -> float:
        """Variance of the targets' mean map, in those that a mean of as many maps has."""
        seen = self._pipeline.targets.fit_seen
        own = seen.var(0).mean((-2, -1)) / len(seen)
        return float((seen.mean(0).var((-2, -1)) / own.clamp_min(1e-12)).max())

    def make(
        self, size: tuple[int, int], root: int, number: int, periodic: bool, each: Each = iter
    ) -> Maps:
        """Make field `number` of a root key, `(1, c, y, x)` in model range.

        A field that is not periodic is cut out of one that is, and at least half a window larger.
        `each` wraps the numbers of the evaluations, each of a batch of windows.

        Raises:
            ValueError: a periodic field whose sides are no multiples of half a window.
        """
        whole = size if periodic else self._padded(size)
        seeds, places = SeedRange(root, number, number + 1), corners(self._window, whole)
        counts = [min(self._batch, len(places) - at) for at in range(0, len(places), self._batch)]
        inner, at = [], number * len(places)  # every window of every field has its own number
        for count in counts:
            inner.append(self._sampler.denoiser(SeedRange(root ^ 1, at, at + count)))
            at += count
        start, grid = self._begin(seeds, whole), self._pipeline.timesteps
        evaluations = evaluations_per_map("ancestral", len(grid) - 1)
        ticks = iter(each(range(evaluations * len(counts))))
        watched = [_Ticking(one, ticks) for one in inner]
        denoiser = WindowedDenoiser(watched, counts, self._window, whole, start)
        start = self._noised(start, seeds)
        made = decode(denoiser, "ancestral", start, grid, seeds)
        next(ticks, None)  # the last one is over
        return made[..., : size[0], : size[1]]

    def _padded(self, size: tuple[int, int]) -> tuple[int, int]:
        """The smallest field that windows tile and that is half a window larger."""
        y, x = (half * (-(-side // half) + 1) for side, half in zip(size, self._half, strict=True))
        return y, x

    def _begin(self, seeds: SeedRange, size: tuple[int, int]) -> Maps:
        """A Gaussian field of the targets' spectrum."""
        device, shape = self._pipeline.device, (len(self._mean), *size)
        field = normal(seeds, shape, 0, Stream.LATENT, device)
        return self._mean.to(device) + filtered(field, self._spectrum(size).sqrt())

    def _noised(self, clean: Maps, seeds: SeedRange) -> Latents:
        """The latents at the top of the grid of a clean field."""
        schedule, top = self._pipeline.base.schedule, int(self._pipeline.timesteps[-1])
        white = normal(seeds, clean.shape[1:], 0, Stream.FACTOR, clean.device)
        alpha, sigma = float(schedule.alpha[top]), float(schedule.sigma[top])
        noised: Latents = (alpha * clean + sigma * white) / schedule.scale(top)
        return noised

    def _spectrum(self, size: tuple[int, int]) -> Map:
        """The targets' isotropic power at the wavenumbers of a field."""
        power = self._sampler.aims.power.cpu().double()
        k = wavenumbers(*self._window).flatten().numpy()
        order = np.argsort(k)
        at = wavenumbers(*size).numpy()
        rows = [np.interp(at, k[order], row.flatten().numpy()[order]) for row in power]
        return torch.from_numpy(np.stack(rows)).float()


@final
class _Ticking:
    """A denoiser that takes the next of `ticks` whenever it begins."""

    def __init__(self, inner: Denoiser, ticks: Iterator[int]) -> None:
        self._inner, self._ticks = inner, ticks

    @property
    def schedule(self) -> NoiseSchedule:
        return self._inner.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        next(self._ticks, None)
        return self._inner(x_t, t)


def make_field(
    pipeline: Pipeline,
    sampler: Sampler,
    identity: str,
    size: tuple[int, int],
    number: int = 0,
    *,
    periodic: bool = False,
    batch: int = 64,
    each: Each = iter,
) -> NDArray[np.float32]:
    """Make a field of any size in physical units; see `Synthesizer.field`.

    `batch` windows are denoised at once; `each` wraps the numbers of these pieces of work, to show
    how far it is.
    """
    maker = FieldMaker(pipeline, sampler, batch)
    if pipeline.codes is not None or maker.varies > UNIFORM:
        raise InputError(
            f"field: got targets whose mean map varies by {maker.varies:.1f} times what chance "
            f"allows, or a model of codes; expected at most {UNIFORM:.0f}, as of maps that are "
            "the same everywhere, and a model of pixels"
        )
    sides = list(zip(size, pipeline.targets.shape[1:], strict=True))
    fits = all(side >= own and own % 2 == 0 for side, own in sides)
    if number < 0 or not fits or (periodic and any(side % (own // 2) for side, own in sides)):
        raise InputError(
            f"field: got {size[0]} x {size[1]}, number {number}; expected 0 or more, and targets "
            f"of even sides, no larger than the field: {sides[0][1]} x {sides[1][1]}, half of "
            "which a periodic field is made of"
        )
    made = maker.make(size, root_key(f"{identity}/field"), number, periodic, each)
    physical: NDArray[np.float32] = pipeline.physical(made.cpu())[0]
    return physical
