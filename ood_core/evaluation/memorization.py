"""Copies among samples: thresholds that real maps set, and what planted copies show of them.

A threshold is calibrated by ranks, without a law for distances: of `m` held-out maps, the `k`-th
smallest distance to the fit targets with `k = floor(a (m + 1))`. A further map of the same law lies
within it with probability `k / (m + 1) <= a`, whatever the law (split conformal p-values; Vovk et
al. 2005). Fewer held-out maps than `1 / a - 1` cannot give a rate of `a`: the smallest distance is
taken, and its rate `1 / (m + 1)` is said.

Latents are compared as well: those that samples were drawn from with those of the fit targets. No
held-out latents are there, so each target meets the others instead. Nearest pairs count twice in
that: of the `n` sorted distances every second one is taken, as `n / 2` independent ones, and the
rate is nominal closely, if not exactly. Such a check sees a prior that hands out targets again, or
mixes of few of them. It says nothing of what decoding adds: a latent of its own may still be
decoded to a copy, which the levels of pixels and statistics see.

Overlapping cut-outs of fit and held-out targets are near copies of one another: thresholds are then
small, and copies are missed rather than real maps accused.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from scipy.stats import betabinom
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.config.targets import Symmetry
from ood_core.evaluation.features import AnyMaps, Ruler, own_units
from ood_core.evaluation.results import CopyCheck
from ood_core.metrics.discrepancy import row_distances
from ood_core.metrics.novelty import Nearest, nearest
from ood_core.numerics.random import Stream, generator
from ood_core.numerics.symmetry import orbit_size, transform

RATE = 0.01  # of real maps that are flagged
NOISES = (
    0.0,
    0.1,
    0.2,
    0.4,
    0.8,
)  # of planted copies, in standard deviations of the map that is copied
LATENT_NOISES = (0.5, 1.0, 2.0, 4.0, 8.0)  # of planted latents
PLANTED = 64  # copies of each
PLANT_INDEX = 3000  # of the random stream, past that of `survey`

Distances = Float[Tensor, " m"]


def threshold(held_out: Distances, rate: float = RATE) -> tuple[float, float]:
    """Return the distance that flags, and the rate at which it flags real maps."""
    rank = _rank(len(held_out), rate)
    return float(held_out.double().sort().values[rank - 1]), rank / (len(held_out) + 1)


def chance(flagged: int, count: int, held_out: int, rate: float = RATE) -> float:
    """Return how often so many or more of `count` real maps would be flagged.

    The number within the `k`-th smallest of `m` distances of the same law is beta-binomial, with
    parameters `k` and `m + 1 - k`.
    """
    rank = _rank(held_out, rate)
    return float(betabinom(count, rank, held_out + 1 - rank).sf(flagged - 1))


def _rank(held_out: int, rate: float) -> int:
    return max(1, int(rate * (held_out + 1)))


def power(ruler: Ruler, within: float, root: int) -> tuple[tuple[float, float], ...]:
    """Return, per noise of `NOISES`, the share of planted copies of fit targets that are flagged.

    Copies are turned, shifted and noised at random.
    """
    found = []
    for number, noise in enumerate(NOISES):
        near = ruler.nearest_shifted(planted(ruler, noise, root, number)).distance
        found.append((noise, float((near.float() <= within).double().mean())))
    return tuple(found)


def planted(ruler: Ruler, noise: float, root: int, number: int) -> AnyMaps:
    """Return fit targets, each under a random group element and shift, with white noise added.

    `noise` is in standard deviations of the map that it is added to.
    """
    rng = generator(root, PLANT_INDEX + number, stream=Stream.RESAMPLE)
    chosen = torch.from_numpy(rng.permutation(len(ruler.fit))[:PLANTED])
    copies = []
    for target in ruler.fit[chosen]:
        element = int(rng.integers(orbit_size(ruler.symmetries)))
        image = transform(target[None], element, ruler.symmetries)[0]
        shift = tuple(int(rng.integers(side)) for side in image.shape[-2:])
        copies.append(image.roll(shift, (-2, -1)))
    clean = torch.stack(copies)
    spread = clean.std((-2, -1), keepdim=True)
    return (
        clean + noise * spread * torch.from_numpy(rng.standard_normal(tuple(clean.shape))).float()
    )


def latent_check(
    targets: Latents, drawn: Float[Tensor, "n c y x"], symmetries: Sequence[Symmetry], root: int
) -> CopyCheck:
    """Hold drawn latents against those of the targets, over symmetries, in units of their own."""
    own, rows = own_units(targets), own_units(drawn)
    apart = among(own, symmetries).distance.sort().values[::2]
    within, rate = threshold(apart)
    flagged = int((nearest(rows, own, symmetries).distance <= within).sum())
    found = []
    for number, noise in enumerate(LATENT_NOISES):
        rng = generator(root, PLANT_INDEX + len(NOISES) + number, stream=Stream.RESAMPLE)
        copies = own[torch.from_numpy(rng.permutation(len(own))[:PLANTED])]
        element = int(rng.integers(orbit_size(symmetries)))
        noised = copies + noise * torch.from_numpy(rng.standard_normal(tuple(copies.shape)))
        planted = own_units(transform(noised, element, symmetries))
        near = nearest(planted, own, symmetries).distance
        found.append((noise, float((near <= within).double().mean())))
    return CopyCheck(
        level="latent",
        title="drawn latents, over symmetries",
        threshold=within,
        rate=rate,
        flagged=flagged,
        p_value=chance(flagged, len(drawn), len(apart)),
        power=tuple(found),
        asked=len(drawn),
    )


def among(maps: AnyMaps, symmetries: Sequence[Symmetry]) -> Nearest:
    """Return the nearest other map of each, under the images of the others."""
    found = []
    for i in range(len(maps)):
        others = torch.cat([maps[:i], maps[i + 1 :]])
        near = nearest(maps[i : i + 1], others, symmetries)
        found.append(replace(near, target=near.target + (near.target >= i)))
    return Nearest(
        torch.cat([f.distance for f in found]),
        torch.cat([f.target for f in found]),
        torch.cat([f.element for f in found]),
    )


def nearest_rows(rows: Float[Tensor, "n f"], fit: Float[Tensor, "t f"]) -> Distances:
    """Return the distance of whitened rows to the nearest row of the fit targets."""
    return row_distances(rows, fit).amin(1)
