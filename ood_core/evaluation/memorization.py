"""Memorisation: do more samples lie near to fit targets than real maps do?

Thresholds are set by real maps; how far they reach is measured with planted copies.

A threshold is calibrated by ranks, without assuming a distribution of distances: of `m` held-out
maps, the `k`-th smallest distance to the fit targets with `k = floor(a (m + 1))`. A further map of
the same distribution lies within it with probability `k / (m + 1) <= a` (split conformal p-values;
Vovk et al. 2005). Fewer held-out maps than `1 / a - 1` cannot give a rate of `a`: the smallest
distance is taken, with its rate `1 / (m + 1)`.

Latents are compared as well: those that samples were drawn from with those of the fit targets. No
held-out latents are there, so each target is compared with the others instead. Nearest pairs count
twice in that: of the `n` sorted distances every second one is taken, as `n / 2` independent ones,
and the rate is nominal closely, if not exactly. Such a check finds a prior that hands out targets
again, or mixes of few of them. It says nothing of what decoding adds: a new latent may still be
decoded to a copy, which the checks of pixels and scattering moments find.

Held-out maps that are copies of fit targets themselves would bring a threshold to 0: those within
the limits of single copies (`ood_core.evaluation.copies`) are left out and listed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Bool, Float
from scipy.stats import betabinom
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.config.targets import Symmetry
from ood_core.evaluation.copies import CopyLimits
from ood_core.evaluation.features import AnyMaps, FeatureExtractor, Features
from ood_core.evaluation.results import MemorizationCheck
from ood_core.metrics.discrepancy import row_distances
from ood_core.metrics.distances import Whitening
from ood_core.metrics.novelty import Nearest, nearest
from ood_core.metrics.one_point import own_units
from ood_core.numerics.random import Root
from ood_core.numerics.symmetry import orbit_size, transform

RATE = 0.01  # of real maps that are flagged
MAP_NOISES = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Of planted copies, in standard deviations of the map that is copied."""
LATENT_NOISES = (0.5, 1.0, 2.0, 4.0, 8.0)  # of planted latents
PLANTED = 64  # copies of each

Distances = Float[Tensor, " m"]


@final
@dataclass(frozen=True, slots=True, eq=False)
class CopyThresholds:
    """Distances within which samples count as copies, and the rates at which real maps are.

    `pixels` is of the distance over group and shifts, `scattering` of whitened scattering moments
    to those of the fit targets, `targets`. They are set by `held_out` maps. `single` are the limits
    of single copies; `shared` are held-out maps within these, which are left out.
    """

    targets: Float[Tensor, "t f"]
    single: CopyLimits
    shared: tuple[int, ...]
    held_out: int
    pixels: float
    pixels_rate: float
    scattering: float
    scattering_rate: float

    @classmethod
    def calibrate(
        cls, fit: Features, held_out: Features, whitening: Whitening, count: int
    ) -> "CopyThresholds":
        """Calibrate on held-out maps, for a set of `count` samples."""
        targets = whitening(fit["scattering"])
        single = CopyLimits.calibrate(held_out, count)
        shared = single.within(held_out)
        kept = ~shared if not bool(shared.all()) else torch.ones_like(shared)
        return cls(
            targets,
            single,
            tuple(shared.nonzero()[:, 0].tolist()),
            int(kept.sum()),
            *threshold(held_out["shifted"][kept]),
            *threshold(nearest_distances(whitening(held_out["scattering"][kept]), targets)),
        )

    def within(
        self, features: Features, whitened: Float[Tensor, "n f"]
    ) -> dict[str, Bool[Tensor, " n"]]:
        """Return, per threshold, which samples are within; `whitened` are scattering moments."""
        return {
            "pixels": features["shifted"] <= self.pixels,
            "scattering": nearest_distances(whitened, self.targets) <= self.scattering,
        }


def check_maps(
    flagged: dict[str, int],
    count: int,
    thresholds: CopyThresholds,
    extractor: FeatureExtractor,
    root: Root,
    worth: float = 1.0,
) -> tuple[MemorizationCheck, MemorizationCheck]:
    """Return the checks of pixels and of scattering moments of `count` samples.

    `worth` is the effective number of held-out maps in parts of their number.
    """

    def check(space: str, title: str, within: float, rate: float) -> MemorizationCheck:
        p_value = flag_p_value(flagged[space], count, thresholds.held_out, worth=worth)
        return MemorizationCheck(space, title, within, rate, flagged[space], p_value, samples=count)

    title, within = "pixels, over symmetries and shifts", thresholds.pixels
    pixels = check("pixels", title, within, thresholds.pixels_rate)
    within_moments, rate = thresholds.scattering, thresholds.scattering_rate
    return (
        replace(pixels, power=power(extractor, within, root)),
        check("scattering", "scattering moments", within_moments, rate),
    )


def check_latents(
    targets: Latents, drawn: Float[Tensor, "n c y x"], symmetries: Sequence[Symmetry], root: Root
) -> MemorizationCheck:
    """Compare drawn latents with those of the targets, over symmetries, in units of their own."""
    own, samples = own_units(targets), own_units(drawn)
    apart = nearest_others(own, symmetries).distance.sort().values[::2]
    within, rate = threshold(apart)
    flagged = int((nearest(samples, own, symmetries).distance <= within).sum())
    shares = []
    for number, noise in enumerate(LATENT_NOISES):
        rng = root.child("planted latents").generator(number)
        copies = own[torch.from_numpy(rng.permutation(len(own))[:PLANTED])]
        element = int(rng.integers(orbit_size(symmetries)))
        noised = copies + noise * torch.from_numpy(rng.standard_normal(tuple(copies.shape)))
        planted = own_units(transform(noised, element, symmetries))
        near = nearest(planted, own, symmetries).distance
        shares.append((noise, float((near <= within).double().mean())))
    return MemorizationCheck(
        space="latents",
        title="drawn latents, over symmetries",
        threshold=within,
        rate=rate,
        flagged=flagged,
        p_value=flag_p_value(flagged, len(drawn), len(apart)),
        power=tuple(shares),
        samples=len(drawn),
    )


def threshold(held_out: Distances, rate: float = RATE) -> tuple[float, float]:
    """Return the distance that flags, and the rate at which it flags real maps."""
    rank = _rank(len(held_out), rate)
    return float(held_out.double().sort().values[rank - 1]), rank / (len(held_out) + 1)


def flag_p_value(
    flagged: int, count: int, held_out: int, rate: float = RATE, worth: float = 1.0
) -> float:
    """Return how often so many or more of `count` real maps would be flagged.

    The number within the `k`-th smallest of `m` distances of the same distribution is
    beta-binomial, with parameters `k` and `m + 1 - k`. Distances that depend on one another set a
    threshold less surely: of `m` that are worth `w m`, both parameters are `w` times as large,
    which keeps the mean and widens the distribution.
    """
    rank = _rank(held_out, rate)
    return float(betabinom(count, worth * rank, worth * (held_out + 1 - rank)).sf(flagged - 1))


def _rank(held_out: int, rate: float) -> int:
    return max(1, int(rate * (held_out + 1)))


def power(
    extractor: FeatureExtractor, within: float, root: Root
) -> tuple[tuple[float, float], ...]:
    """Return, per noise of `MAP_NOISES`, the share of planted copies of fit targets flagged.

    Copies are turned, shifted and noised at random.
    """
    shares = []
    for number, noise in enumerate(MAP_NOISES):
        near = extractor.nearest_shifted(planted_copies(extractor, noise, root, number)).distance
        shares.append((noise, float((near.float() <= within).double().mean())))
    return tuple(shares)


def planted_copies(extractor: FeatureExtractor, noise: float, root: Root, number: int) -> AnyMaps:
    """Return fit targets, each under a random group element and shift, with white noise added.

    `noise` is in standard deviations of the map that it is added to; `number` tells apart sets.
    """
    rng = root.child("planted maps").generator(number)
    chosen = torch.from_numpy(rng.permutation(len(extractor.fit))[:PLANTED])
    copies = []
    for target in extractor.fit[chosen]:
        element = int(rng.integers(orbit_size(extractor.symmetries)))
        image = transform(target[None], element, extractor.symmetries)[0]
        shift = tuple(int(rng.integers(side)) for side in image.shape[-2:])
        copies.append(image.roll(shift, (-2, -1)))
    clean = torch.stack(copies)
    spread = clean.std((-2, -1), keepdim=True)
    white = torch.from_numpy(rng.standard_normal(tuple(clean.shape)))
    return clean + noise * spread * white.float()


def nearest_others(maps: AnyMaps, symmetries: Sequence[Symmetry]) -> Nearest:
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


def nearest_distances(a: Float[Tensor, "n f"], b: Float[Tensor, "t f"]) -> Distances:
    """Return the distance of each row of `a` to the nearest row of `b`."""
    return row_distances(a, b).amin(1)
