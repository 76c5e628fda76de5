"""Pixel mixing: weighted sums of targets that keep mean and covariance.

With residuals `r_i` about the mean of `n` targets, and weights whose sum is `a` and whose sum of
squares is `b`,

    x = mean + sum_i w_i r_i / sqrt(b - a^2 / n).

Residuals of different targets are correlated by `-1 / (n - 1)`, since all of them sum to zero.
Hence the covariance of `sum_i w_i r_i` over draws of different targets is `(b - a^2 / n) C`, with
the unbiased covariance `C` of the targets, whatever the weights. A plain average has less variance;
division by `sqrt(b)` alone leaves it too low by `a^2 / (n b)`. Weights that keep the law of
Gaussians are those of Bodin et al. 2024 (arXiv 2408.08558), and `a^2 / n` is the correction for a
mean that was estimated of the same maps. With symmetries residuals of different targets under
random elements are correlated less, and the variance comes out higher by `a^2 / (n b)` at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.rivals.baseline import Made, draw_images, require_targets
from ood_core.arrays import Map, Maps
from ood_core.config.targets import Symmetry
from ood_core.estimators.gaussian import symmetric_mean
from ood_core.numerics.random import SeedRange, Stream, generator
from ood_core.synthesis.latent_samplers import corrected_weights


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Mixing:
    """Random images of `parents` different targets, with weights uniform on the simplex."""

    parents: int = 3

    def __call__(self, targets: Maps, symmetries: Sequence[Symmetry], seeds: SeedRange) -> Made:
        """Mix one map per seed; see `Baseline`."""
        require_targets(targets, self.parents + 1)
        images = draw_images(targets, symmetries, seeds, self.parents)
        even = [1.0] * self.parents
        weights = [generator(seeds.root, i, stream=Stream.FACTOR).dirichlet(even) for i in seeds]
        shares = torch.from_numpy(np.array(weights, np.float32))
        return Made(mix(images, shares, symmetric_mean(targets, symmetries), len(targets)))


def mix(
    images: Float[Tensor, "n k c y x"], weights: Float[Tensor, "n k"], mean: Map, targets: int
) -> Maps:
    """Sum residuals of `k` images about the mean of `targets` maps, at their own variance."""
    scaled = corrected_weights(weights, targets)
    return mean + torch.einsum("nk,nkcyx->ncyx", scaled, images - mean)
