"""Mixtures of Gaussians over the targets' patches, fitted by expectation-maximisation.

A few dozen maps are few, but their patches are many: thousands of draws from the law of how the
field looks close by, at several sizes. That is where textures and sources are told from noise.
"""

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.config.targets import Symmetry
from ood_core.diffusion.patches import PatchMixture
from ood_core.numerics.random import Stream, generator
from ood_core.numerics.symmetry import orbit

SHAPES = ((5, 1), (8, 1), (8, 2))  # side of the patch, pixels that are averaged to one
MAX_NUMBERS = 100  # of a patch with its channels: the cost goes with the square
SAMPLE = 12_000
MIN_PATCHES = 100  # patches per Gaussian
ROUNDS = 10  # of expectation-maximisation


def patch_shapes(channels: int, height: int, width: int) -> list[tuple[int, int]]:
    """Sides and scales of the patches that maps of this shape have room for."""
    most = math.isqrt(MAX_NUMBERS // channels)
    found = {
        (min(side, most), scale)
        for side, scale in SHAPES
        if min(height, width) >= 2 * side * scale and height % scale == 0 == width % scale
    }
    return sorted(pair for pair in found if pair[0] >= 2)


def patch_stride(side: int) -> int:
    """Pixels from one patch to the next: a third of the side, rounded up."""
    return math.ceil(side / 3)


def fit_patches(
    maps: Maps,
    side: int,
    scale: int,
    spec: CalibrationSpec,
    symmetries: Sequence[Symmetry],
    root: int,
) -> PatchMixture:
    """Fit at most `spec.patches` Gaussians to patches of the maps and of their images.

    No direction has less than `spec.min_variance`: patches of one map are hardly independent, and
    an empty direction would be taken for a certain one.
    """
    rows = _patches(torch.cat(orbit(maps, symmetries)), side, scale)
    rng = generator(root, side * 10 + scale, stream=Stream.RESAMPLE)
    rows = rows[torch.from_numpy(rng.permutation(len(rows))[:SAMPLE])]
    count = max(1, min(spec.patches, len(rows) // MIN_PATCHES))
    floor = spec.min_variance
    found = GaussianMixture(count, reg_covar=floor, max_iter=ROUNDS, random_state=root % 2**32)
    found.fit(rows.double().numpy())
    values, vectors = torch.linalg.eigh(torch.from_numpy(found.covariances_))
    return PatchMixture(
        weights=torch.from_numpy(found.weights_).float(),
        means=torch.from_numpy(found.means_).float(),
        values=values.clamp_min(floor).float(),
        vectors=vectors.float(),
        side=side,
        scale=scale,
        stride=patch_stride(side),
    )


def fit_patches_of(
    sets: Sequence[Maps], spec: CalibrationSpec, symmetries: Sequence[Symmetry], root: int
) -> list[tuple[PatchMixture, ...]]:
    """Fit all shapes of patches to each set of maps, side by side, in one thread each.

    Several threads in one fit spin for one another on a machine that has other work.
    """
    shapes = patch_shapes(*sets[0].shape[1:])
    jobs = [(maps, side, scale) for maps in sets for side, scale in shapes]

    def fitted(job: tuple[Maps, int, int]) -> PatchMixture:
        maps, side, scale = job
        return fit_patches(maps, side, scale, spec, symmetries, root)

    with warnings.catch_warnings(), threadpool_limits(1), ThreadPoolExecutor(cpu_count()) as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)  # fits stop after so many rounds
        found = list(pool.map(fitted, jobs))
    each = len(shapes)
    return [tuple(found[i * each : (i + 1) * each]) for i in range(len(sets))]


def _patches(maps: Maps, side: int, scale: int) -> Float[Tensor, "n d"]:
    """Return all patches; of coarse maps also those of the grid moved by half a coarse pixel."""
    seen = []
    for shift in sorted({0, scale // 2}):
        moved = maps[..., shift:, shift:]
        coarse = F.avg_pool2d(moved, scale) if scale > 1 else moved
        seen.append(F.unfold(coarse, side).transpose(1, 2).flatten(0, 1))
    return torch.cat(seen)
