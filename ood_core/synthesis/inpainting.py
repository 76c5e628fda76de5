"""Maps of which some pixels are known: the others are drawn, given those.

Where a draw begins is a draw from the targets' Gaussian given the known pixels, noised to the top
of the grid; on the way down every clean estimate becomes a draw given them
(`ood_core.denoising.conditioned`). Nothing steers here: statistics that are pulled towards those of
a target follow that target, and draws would spread less than they should.
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
from ood_core.diffusion.sampling import decode
from ood_core.errors import InputError
from ood_core.estimators.prior import fit_gaussian
from ood_core.numerics.random import SeedRange, Stream, normal, root_key
from ood_core.synthesis.pipeline import Each, Pipeline


@final
class Inpainter:
    """Draws maps given some of their pixels, for a fitted pipeline of calibrated experts."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, targets = pipeline, pipeline.targets
        # The stack's own Gaussian is the best denoiser among much noise, this one the likeliest.
        law = fit_gaussian(targets.fit_seen, "spectral_low_rank", targets.symmetries)
        self._mean, self._covariance = on_device((law.mean, law.covariance), pipeline.device)

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
        denoiser = ConditionedDenoiser(pipeline.denoiser(label.expand(count)), pixels, seeds)
        made = decode(
            denoiser, "ancestral", latents, pipeline.timesteps, seeds, 0.0, pipeline.shortcut
        )
        return torch.where(missing, made, known)


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
