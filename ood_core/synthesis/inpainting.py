"""Maps of which some pixels are known: the others are drawn, given those.

Where a draw begins is a draw from the targets' Gaussian given the known pixels, noised to the top
of the grid; on the way down every clean estimate becomes a draw given them
(`ood_core.denoising.conditioned`). Nothing steers here: statistics that are pulled towards those of
a target follow that target, and draws would spread less than they should.

That step is exact with the estimates of the targets' Gaussian itself. Others may err no more than a
hundredth more, in squared error, and have a gain that is off by a tenth at some scale: draws then
spread too much or too little by as much. So where the Gaussian denoises the fit targets as well as
the calibrated denoiser does, but for the share of its error that calibration gives up (its
`prune_tolerance`), its estimates are taken.
"""

import math
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Bool
from numpy.typing import NDArray
from torch import Tensor

from ood_core.arrays import Map, Maps, on_device
from ood_core.denoising.conditioned import ConditionedDenoiser, KnownPixels
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import InputError
from ood_core.estimators.windowed import MANY_PIXELS, fit_conditional
from ood_core.numerics.covariance import Dense
from ood_core.numerics.random import SeedRange, Stream, normal, normal_like, root_key
from ood_core.synthesis.pipeline import Each, Pipeline

TRIED = 64  # fit targets that are denoised at once


@final
class Inpainter:
    """Draws maps given some of their pixels, for a fitted pipeline of calibrated experts."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, targets = pipeline, pipeline.targets
        # The stack's own Gaussian is the best denoiser among much noise, this one the likeliest.
        law = fit_conditional(targets.fit_seen, targets.symmetries)
        self._mean, self._covariance = on_device((law.mean, law.covariance), pipeline.device)
        self._law = GaussianDenoiser(pipeline.base.schedule, self._mean, self._covariance)
        self._by_law = self._enough()

    def _enough(self) -> frozenset[int]:
        """Time indices at which the Gaussian is as good a denoiser as the calibrated one.

        None where its matrix would have to be factorised at every noise level and is large.
        """
        pipeline, spec = self._pipeline, self._pipeline.method.calibration
        if isinstance(self._covariance, Dense) and self._mean.numel() > MANY_PIXELS:
            return frozenset()
        clean, schedule = pipeline.targets.fit_seen.to(pipeline.device), pipeline.base.schedule
        labels, tolerance = pipeline.labels(clean), 0.0 if spec is None else spec.prune_tolerance
        found = []
        for t in pipeline.timesteps.tolist():
            white = normal_like(clean, pipeline.root, t, Stream.KNOWN)
            x_t = float(schedule.alpha[t]) * clean + float(schedule.sigma[t]) * white
            parts = zip(x_t.split(TRIED), labels.split(TRIED), strict=True)
            stack = torch.cat([pipeline.denoiser(label)(x, t) for x, label in parts])
            error, of_law = (
                (e - clean).double().square().sum() for e in (stack, self._law(x_t, t))
            )
            if of_law <= (1 + tolerance) * error:
                found.append(t)
        return frozenset(found)

    def draw(self, known: Map, missing: Bool[Tensor, "c y x"], seeds: SeedRange) -> Maps:
        """Draw one map per seed, in model range, with the known pixels as they are.

        Raises:
            InputError: more pixels are missing than can be drawn at once.
        """
        pipeline, count = self._pipeline, len(seeds)
        device, mean = pipeline.device, self._mean
        known, missing = known.to(device), missing.to(device)
        pixels = KnownPixels(self._covariance, known, missing)
        prior = mean.expand(count, *known.shape)
        clean = pixels.draw(prior, math.inf, normal(seeds, known.shape, 0, Stream.LATENT, device))
        schedule, top = pipeline.base.schedule, pipeline.method.ends[1]
        white = normal(seeds, known.shape, 0, Stream.FACTOR, device)
        alpha, sigma = float(schedule.alpha[top]), float(schedule.sigma[top])
        latents = (alpha * clean + sigma * white) / schedule.scale(top)
        label = pipeline.labels(pixels.mean(prior[:1], math.inf))
        stack = pipeline.denoiser(label.expand(count))
        inner = EitherDenoiser(stack, self._law, self._by_law)
        denoiser = ConditionedDenoiser(inner, pixels, seeds)
        made = decode(
            denoiser, "ancestral", latents, pipeline.timesteps, seeds, 0.0, pipeline.shortcut
        )
        return torch.where(missing, made, known)


@final
class EitherDenoiser:
    """One denoiser, and another one at some time indices; both have the same schedule."""

    def __init__(self, one: Denoiser, other: Denoiser, where: frozenset[int]) -> None:
        self._one, self._other, self._where = one, other, where

    @property
    def schedule(self) -> NoiseSchedule:
        """Noise schedule of both."""
        return self._one.schedule

    def __call__(self, x_t: Maps, t: int) -> Maps:
        """Return the clean estimate."""
        return (self._other if t in self._where else self._one)(x_t, t)


def inpaint(
    pipeline: Pipeline,
    identity: str,
    maps: NDArray[Any],
    draws: int,
    seed: int = 0,
    *,
    batch: int = 64,
    each: Each = iter,
) -> NDArray[np.float32]:
    """Draw the pixels that are NaN; see `Synthesizer.inpaint`.

    `batch` draws are made at once; `each` wraps these pieces of work, to show how far it is.
    """
    whole, targets = np.asarray(maps, dtype=np.float32), pipeline.targets
    missing = np.isnan(whole)
    _check(pipeline, whole, draws)
    inpainter, root = Inpainter(pipeline), root_key(f"{identity}/inpaint/{seed}")
    mean = targets.physical(targets.fit_ranged.mean(0, keepdim=True))
    ranged = targets.ranged(np.where(missing, mean, whole))
    made = np.empty((len(whole), draws, *whole.shape[1:]), dtype=np.float32)
    pieces = [(row, low) for row in range(len(whole)) for low in range(0, draws, batch)]
    for row, low in each(pieces):
        high, first = min(low + batch, draws), row * draws
        seeds = SeedRange(root, first + low, first + high)
        drawn = inpainter.draw(ranged[row], torch.from_numpy(missing[row]), seeds)
        made[row, low:high] = np.where(missing[row], pipeline.physical(drawn.cpu()), whole[row])
    return made


def _check(pipeline: Pipeline, maps: NDArray[np.float32], draws: int) -> None:
    """Raise InputError where maps cannot be inpainted."""
    if pipeline.experts is None or pipeline.codes is not None:
        raise InputError(
            "inpaint: got a method without calibration or a model of codes; expected the "
            "calibrated method and a model of pixels"
        )
    shape = pipeline.targets.shape
    if maps.ndim != 4 or maps.shape[1:] != shape:
        raise InputError(f"inpaint: got maps of shape {maps.shape}; expected (n, *{shape})")
    if np.isinf(maps).any():
        raise InputError("inpaint: got infinite pixels; expected numbers, and NaN where one lacks")
    share = np.isnan(maps).mean((1, 2, 3))
    if not (draws >= 1 and len(maps) and share.min() > 0 and share.max() < 1):
        raise InputError(
            f"inpaint: got {draws} draws of {len(maps)} maps, which lack {share} of their pixels; "
            "expected 1 or more draws, and in each map some pixels that are NaN and some that "
            "are not"
        )
