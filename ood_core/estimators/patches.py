"""Mixtures of Gaussians over the targets' patches, fitted by expectation-maximisation.

A few dozen maps are few, but their patches are many: thousands of draws from the distribution of
how the field looks close by, at several sizes. That is where textures and sources are told from
noise.
"""

import math
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.config.targets import Symmetry
from ood_core.diffusion.patches import HOST_ROWS, PatchMixture
from ood_core.numerics.random import Stream, generator
from ood_core.numerics.symmetry import orbit

SHAPES = ((5, 1), (8, 1), (8, 2))  # side of the patch, pixels that are averaged to one
MAX_NUMBERS = 100  # of a patch with its channels: the cost goes with the square
SAMPLE = 12_000
MIN_PATCHES = 100  # patches per Gaussian
ROUNDS = 10  # of expectation-maximisation
GAIN = 1e-3  # of the mean log likelihood, below which rounds end
LEAST_SHARE = 1e-6  # of a patch in a Gaussian's moments: most patches belong to one or two


def patch_shapes(channels: int, height: int, width: int) -> list[tuple[int, int]]:
    """Sides and scales of the patches that maps of this shape have room for."""
    most, least = math.isqrt(MAX_NUMBERS // channels), min(height, width)
    found = {(min(side, most), scale) for side, scale in SHAPES if least >= 2 * side * scale}
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
    rng = generator(root, side * 10 + scale, stream=Stream.RESAMPLE)
    rows = drawn_patches(torch.cat(orbit(maps, symmetries)), side, scale, rng)
    count = max(1, min(spec.patches, len(rows) // MIN_PATCHES))
    start = KMeans(count, n_init=1, random_state=root % 2**32)
    labels = torch.from_numpy(start.fit(rows.numpy()).labels_).long()
    stride = patch_stride(side)
    share = F.one_hot(labels, count).float()
    mixture = PatchMixture(*moments(rows, share, spec.min_variance), side, scale, stride)
    before = -math.inf
    for _ in range(ROUNDS):
        share, likelihood = expectation(rows, mixture)
        mixture = PatchMixture(*moments(rows, share, spec.min_variance), side, scale, stride)
        if likelihood - before < GAIN:
            break
        before = likelihood
    return mixture


def expectation(
    rows: Float[Tensor, "n d"], mixture: PatchMixture
) -> tuple[Float[Tensor, "n k"], float]:
    """Share of every Gaussian in every patch, and the mean log likelihood up to a constant."""
    clean = mixture.noised(0.0)
    logs = torch.cat([clean.log_densities(clean.whitened(r)) for r in rows.split(HOST_ROWS)])
    return logs.softmax(-1), float(logs.logsumexp(-1).mean())


def moments(
    rows: Float[Tensor, "n d"], share: Float[Tensor, "n k"], least: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights, means, and eigenvalues and -vectors of covariances of shared patches.

    Covariances have `least` added on their diagonals, and no eigenvalue below it.
    """
    mass = share.sum(0) + 10 * torch.finfo(share.dtype).eps  # a Gaussian may have lost all patches
    means = share.T @ rows / mass[:, None]
    covariances = least * torch.eye(rows.shape[1]).to(rows).repeat(len(means), 1, 1)
    for number, column in enumerate(share.T):
        held = column > LEAST_SHARE
        away = rows[held] - means[number]
        covariances[number] += (away * column[held, None]).T @ away / mass[number]
    values, vectors = torch.linalg.eigh(covariances.double())
    return mass / mass.sum(), means, values.clamp_min(least).float(), vectors.float()


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

    alone = ThreadPoolExecutor(joblib.cpu_count(), initializer=torch.set_num_threads, initargs=(1,))
    with warnings.catch_warnings(), threadpool_limits(1), alone as pool:
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct patches than Gaussians
        found = list(pool.map(fitted, jobs))
    each = len(shapes)
    return [tuple(found[i * each : (i + 1) * each]) for i in range(len(sets))]


def drawn_patches(
    maps: Maps, side: int, scale: int, rng: np.random.Generator
) -> Float[Tensor, "n d"]:
    """Draw patches at all places; of coarse maps also those of the grid moved by half a pixel.

    All patches at once would take `side^2` times the memory of the maps.
    """
    seen = []
    for shift in sorted({0, scale // 2}):
        moved = maps[..., shift:, shift:]
        coarse = F.avg_pool2d(moved, scale) if scale > 1 else moved
        seen.append(coarse.unfold(-2, side, 1).unfold(-2, side, 1).movedim(1, 3))
    ends = np.cumsum([windows[..., 0, 0, 0].numel() for windows in seen])
    drawn = rng.permutation(ends[-1])[:SAMPLE]
    rows = torch.empty(len(drawn), maps.shape[1] * side**2)
    for windows, end in zip(seen, ends, strict=True):
        number = drawn - (end - windows[..., 0, 0, 0].numel())
        mine = torch.from_numpy((number >= 0) & (drawn < end))
        where = np.unravel_index(number[mine.numpy()], windows.shape[:3])
        rows[mine] = windows[tuple(map(torch.from_numpy, where))].flatten(1)
    return rows
