"""Samples that a function of the user's scores well, by choices alone.

Where samples are steered, an aim decides their mean, their brightness and their size, so the choice
begins there: of several aims, mixtures of the statistics of targets, one is taken with probability
proportional to `exp(strength * z)`, where `z` is the same mixture of the normal scores of the
targets' ranks, and that of its first parent: the flux of one bright galaxy then weighs no more than
its rank. On the way down `search` keeps ways of which the clean estimate scores well, at a
temperature of half the central 68 % of the targets' scores over `strength`.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from ood_core.arrays import Maps, PerSample
from ood_core.diffusion.search import search
from ood_core.errors import InputError
from ood_core.numerics.random import SeedRange
from ood_core.numerics.symmetry import orbit
from ood_core.synthesis.pipeline import Pipeline
from ood_core.synthesis.sampler import Sampler

Reward = Callable[[NDArray[np.float32]], NDArray[np.floating]]
"""Scores of maps in physical units, `(n, c, y, x)` to `(n,)`; more is better."""


class Preference:
    """A reward on the maps of a fitted pipeline.

    Args:
        pipeline: what was fitted.
        sampler: draws its samples.
        reward: scores maps.
        candidates: ways that are tried per step, 1 or more.
        strength: of the choice, in inverse standard deviations; 0 chooses nothing.

    Raises:
        InputError: a reward that does not give one finite number per map, or the same for all
            targets; an impossible number of candidates or strength.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        sampler: Sampler,
        reward: Reward,
        candidates: int,
        strength: float,
    ) -> None:
        if candidates < 1 or not 0 <= strength < np.inf:
            raise InputError(
                f"got {candidates} candidates and strength {strength}; expected 1 or more, and a "
                "number of 0 or more"
            )
        self._pipeline, self._sampler, self._reward = pipeline, sampler, reward
        self._candidates, self._strength = candidates, strength
        targets = pipeline.targets
        scores = self._scores(torch.cat(orbit(targets.fit_ranged, targets.symmetries))).numpy()
        if scores.std() == 0:
            raise InputError(
                "got a reward that is the same for all fit targets; expected one that differs"
            )
        self._normal = torch.from_numpy(norm.ppf((rankdata(scores) - 0.5) / len(scores)))
        low, high = np.quantile(scores, (0.16, 0.84))
        self._spread = float((high - low) / 2) or float(scores.std())

    def sample(self, seeds: SeedRange) -> Maps:
        """Make the samples of a range of seeds, in model range."""
        pipeline = self._pipeline
        latents = self._sampler.drawn(seeds).draws.latents.to(pipeline.device)
        denoiser = self._sampler.denoiser(seeds, self._strength * self._normal)
        temperature = self._spread / self._strength if self._strength else np.inf
        made = search(
            denoiser,
            latents,
            pipeline.timesteps,
            seeds,
            self._of_seen,
            self._candidates,
            temperature,
        )
        return pipeline.maps(made)

    def _of_seen(self, seen: Maps) -> PerSample:
        return self._scores(self._pipeline.maps(seen).cpu())

    def _scores(self, maps: Maps) -> PerSample:
        scores = np.asarray(self._reward(self._pipeline.physical(maps)), dtype=np.float64)
        if scores.shape != (len(maps),) or not np.isfinite(scores).all():
            raise InputError(
                f"got scores of shape {scores.shape}, {np.isfinite(scores).sum()} of them finite, "
                f"of {len(maps)} maps; expected one finite number per map"
            )
        return torch.from_numpy(scores)
