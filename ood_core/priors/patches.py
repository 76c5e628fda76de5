"""Mixtures of Gaussians over the targets' patches, fitted by expectation-maximisation.

A few dozen maps are few, but their patches are many: thousands of draws from the law of how the
field looks close by, at several sizes. That is where textures and sources are told from noise.
"""

import math
import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.diffusion.patches import PatchMixture
from ood_core.seeds import Stream, generator
from ood_core.specs import Symmetry
from ood_core.symmetry import orbit

SHAPES = ((5, 1), (8, 1), (8, 2))  # side of the patch, pixels that are averaged to one
MOST_NUMBERS = 100  # of a patch with its channels: the cost goes with the square
SAMPLE = 12_000
FEWEST = 100  # patches per Gaussian
ROUNDS = 10  # more change the held-out error by less than the draw of patches does
FLOOR = 1e-3
"""Least variance in any direction, model range squared: patches of one map are hardly independent,
and an empty direction would be taken for a certain one."""


def patch_shapes(channels: int, height: int, width: int) -> list[tuple[int, int]]:
    """Sides and scales of the patches that maps of this shape have room for."""
    most = math.isqrt(MOST_NUMBERS // channels)
    found = {
        (min(side, most), scale)
        for side, scale in SHAPES
        if min(height, width) >= 2 * side * scale and height % scale == 0 == width % scale
    }
    return sorted(pair for pair in found if pair[0] >= 2)


def fit_patches(
    maps: Maps, side: int, scale: int, count: int, symmetries: Sequence[Symmetry], root: int
) -> PatchMixture:
    """Fit at most `count` Gaussians to patches of the maps and of their images."""
    rows = _patches(torch.cat(orbit(maps, symmetries)), side, scale)
    rng = generator(root, side * 10 + scale, stream=Stream.RESAMPLE)
    rows = rows[torch.from_numpy(rng.permutation(len(rows))[:SAMPLE])]
    members = max(1, min(count, len(rows) // FEWEST))
    found = GaussianMixture(members, reg_covar=FLOOR, max_iter=ROUNDS, random_state=root % 2**32)
    with warnings.catch_warnings():  # it stops after so many rounds on purpose
        warnings.simplefilter("ignore", ConvergenceWarning)
        found.fit(rows.double().numpy())
    values, vectors = torch.linalg.eigh(torch.from_numpy(found.covariances_))
    return PatchMixture(
        weights=torch.from_numpy(found.weights_).float(),
        means=torch.from_numpy(found.means_).float(),
        values=values.clamp_min(FLOOR).float(),
        vectors=vectors.float(),
        side=side,
        scale=scale,
    )


def _patches(maps: Maps, side: int, scale: int) -> Float[Tensor, "n d"]:
    """Return all patches; of coarse maps also those of the grid moved by half a coarse pixel."""
    seen = []
    for shift in sorted({0, scale // 2}):
        moved = maps[..., shift:, shift:]
        coarse = F.avg_pool2d(moved, scale) if scale > 1 else moved
        seen.append(F.unfold(coarse, side).transpose(1, 2).flatten(0, 1))
    return torch.cat(seen)
