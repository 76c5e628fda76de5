"""One pass over the features of a whole set, in blocks, and what the sums say of it.

Memory is bounded but for 8 bytes per sample, by which repeats are told: sums do not grow, of
extremes a few are kept, and what needs samples beside one another (resampling, tests of pairs,
medians) sees a *subsample* that the run's own randomness draws from the whole set, not the first
ones. Blocks may be of any lengths; they come in the order of the samples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.evaluation.features import FeatureExtractor, Features, concatenated, picked
from ood_core.evaluation.memorization import CopyThresholds
from ood_core.evaluation.results import Band, ClosestPair, Copy, HistogramCurves, Score
from ood_core.metrics.distances import Moments, Whitening, frechet_of_moments
from ood_core.metrics.one_point import cumulative_distance
from ood_core.metrics.spectra import spectrum_distance
from ood_core.numerics.random import Root

SUBSAMPLE = 4096  # samples; more would not narrow the bands, which the held-out maps set
SHOWN = 8  # closest and least typical samples
BAND = (0.05, 0.95)
MAP_RANGE = (0.16, 0.84)  # of single maps, in curves


@final
@dataclass(frozen=True, slots=True, eq=False)
class FeatureSums:
    """Sums of features: those of two sets merge to those of both, in any order and grouping.

    `scattering` are moments of whitened scattering moments. Numbers of pixels are whole and merge
    exactly; the others to rounding in float64.
    """

    power: Float[Tensor, "c bins"]
    pixels: Int[Tensor, "c edges"]
    beyond: Float[Tensor, "c 2"]
    scattering: Moments

    @classmethod
    def of(cls, features: Features, whitening: Whitening) -> "FeatureSums":
        """Sum over some maps, none included."""
        return cls(
            features["power"].double().sum(0),
            features["pixels"].long().sum(0),
            features["beyond"].double().sum(0),
            Moments.of(whitening(features["scattering"])),
        )

    def merge(self, other: "FeatureSums") -> "FeatureSums":
        """Return the sums over both sets together."""
        return FeatureSums(
            self.power + other.power,
            self.pixels + other.pixels,
            self.beyond + other.beyond,
            self.scattering.merge(other.scattering),
        )

    @property
    def count(self) -> int:
        """Number of maps."""
        return self.scattering.count


@final
@dataclass(frozen=True, slots=True, eq=False)
class Accumulated:
    """What one pass found.

    `subsample` are the features of samples number `drawn`. `closest` are the samples nearest to a
    target, nearest first; `least_typical` have the longest whitened scattering moments. `flagged`
    counts the samples within each of the thresholds, `copies` are all single ones, and `repeats`
    counts the samples that have all pixel values of an earlier one.
    """

    sums: FeatureSums
    drawn: Int[Tensor, " p"]
    subsample: Features
    closest: tuple[ClosestPair, ...]
    least_typical: tuple[int, ...]
    flagged: dict[str, int]
    copies: tuple[Copy, ...]
    repeats: int


def accumulate(
    blocks: Iterable[Features],
    count: int,
    whitening: Whitening,
    thresholds: CopyThresholds,
    root: Root,
) -> Accumulated:
    """Go once through the features of `count` samples.

    Raises:
        TargetError: features have values that are not finite.
    """
    drawn = subsample(count, root)
    sums, parts, near, odd = None, [], _Least(), _Least()
    start, flagged = 0, dict.fromkeys(("pixels", "scattering"), 0)
    copies: list[Copy] = []
    prints: list[NDArray[np.uint64]] = []
    for features in blocks:
        _require_finite(features, start)
        stop = start + len(features["distance"])
        low, high = torch.searchsorted(drawn, torch.tensor([start, stop])).tolist()
        parts.append(picked(features, drawn[low:high] - start))
        own = FeatureSums.of(features, whitening)
        sums = own if sums is None else sums.merge(own)
        near.add(features, features["distance"], start)
        whitened = whitening(features["scattering"])
        odd.add({}, -whitened.square().sum(1), start)
        for name, mask in thresholds.within(features, whitened).items():
            flagged[name] += int(mask.sum())
        prints.append(_fingerprints(features))
        copies += thresholds.single.copies(features, start)
        start = stop
    assert start == count, "blocks hold the features of the whole set"
    assert sums is not None, "checked by the caller"
    numbers, rows = near.found()
    columns = numbers, rows["target"], rows["element"], rows["distance"]
    pairs = zip(*(column.tolist() for column in columns), strict=True)
    return Accumulated(
        sums,
        drawn,
        concatenated(parts),
        tuple(ClosestPair(*pair) for pair in pairs),
        tuple(odd.found()[0].tolist()),
        flagged,
        tuple(copies),
        _repeats(np.concatenate(prints)),
    )


def repeats(features: Features) -> int:
    """Count the maps that have all pixel values of an earlier one, wherever these lie.

    Pixels at or below each edge are counted, so values are told apart by the edges alone.
    """
    return _repeats(_fingerprints(features))


def _repeats(prints: NDArray[np.uint64]) -> int:
    return len(prints) - len(np.unique(prints))


def _fingerprints(features: Features) -> NDArray[np.uint64]:
    """Hash the counts of pixels of each map to 64 bits, by random odd weights modulo 2^64."""
    counts = features["pixels"].flatten(1).cpu().numpy().astype(np.uint64)
    weights = np.random.default_rng(0).integers(2**63, size=counts.shape[1], dtype=np.uint64)
    found: NDArray[np.uint64] = (counts * (2 * weights + 1)).sum(1, dtype=np.uint64)
    return found


def subsample(count: int, root: Root) -> Int[Tensor, " p"]:
    """Draw which of `count` samples are compared in pairs, in rising order; all of a small set."""
    if count <= SUBSAMPLE:
        return torch.arange(count)
    drawn = root.child("subsample").generator().choice(count, SUBSAMPLE, replace=False)
    return torch.from_numpy(drawn).sort().values


def with_whole(
    scores: Mapping[str, Score], sums: FeatureSums, real: FeatureSums, extractor: FeatureExtractor
) -> dict[str, Score]:
    """Return the scores, each with the same distance of the whole set where sums tell it."""
    own, other = (_pooled(s, extractor) for s in (sums, real))
    whole = {
        "spectrum_error": spectrum_distance(_mean_power(sums), _mean_power(real)),
        "pixel_wasserstein": pixel_distance(own, other, extractor),
        "fsd": frechet_of_moments(sums.scattering, real.scattering),
    }
    return {name: replace(score, whole=whole.get(name)) for name, score in scores.items()}


def pixel_fractions(
    features: Features, extractor: FeatureExtractor
) -> Float[Tensor, "n c columns"]:
    """Return cumulative fractions at the edges, then mean height over and depth under them."""
    fractions = features["pixels"].double() / extractor.held_out[0, 0].numel()
    return torch.cat([fractions, features["beyond"].double()], dim=-1)


def pixel_distance(a: Tensor, b: Tensor, extractor: FeatureExtractor) -> float:
    """Return the Wasserstein-1 distance of pooled pixels in standard deviations of real pixels.

    `a` and `b` are means of `pixel_fractions`. The distance is exact in the limit of many edges.
    Beyond them it compares means, which is exact where only one of the sets reaches there.
    """
    inside = cumulative_distance(a[None, :, :-2], b[None, :, :-2], extractor.edges)
    outside = float((a - b)[:, -2:].abs().sum(-1).mean())
    return (inside + outside) / max(extractor.spread, 1e-12)


def histograms(
    sums: FeatureSums,
    real: Features,
    extractor: FeatureExtractor,
    halves: Sequence[Int[Tensor, " m"]],
) -> HistogramCurves:
    """Return densities between the even edges, of all samples and of all held-out maps.

    The range is that of `halves` of the held-out maps.
    """
    edges = extractor.histogram_edges
    places = torch.searchsorted(extractor.edges, edges)
    width = edges.diff(dim=-1) * extractor.held_out[0, 0].numel()

    def density(pixels: Tensor) -> Tensor:
        at = places.expand(*pixels.shape[:-1], -1)
        return pixels.double().gather(-1, at).diff(dim=-1) / width

    each = density(real["pixels"])
    means = torch.stack([each[half].mean(0) for half in halves])
    low, high = means.quantile(torch.tensor(BAND, dtype=means.dtype), dim=0)
    centres = (edges[:, 1:] + edges[:, :-1]) / 2
    return HistogramCurves(
        centres, density(sums.pixels) / sums.count, Band(each.mean(0), low, high)
    )


def range_of_maps(power: Float[Tensor, "n c bins"]) -> Band:
    """Return median and 16 to 84 % range over single maps."""
    levels = torch.tensor([0.5, *MAP_RANGE], dtype=torch.float64)
    return Band(*power.double().quantile(levels, dim=0))


def _mean_power(sums: FeatureSums) -> Float[Tensor, "one c bins"]:
    return sums.power[None] / sums.count


def _pooled(sums: FeatureSums, extractor: FeatureExtractor) -> Float[Tensor, "c columns"]:
    pixels = sums.pixels.double() / extractor.held_out[0, 0].numel()
    return torch.cat([pixels, sums.beyond], dim=-1) / sums.count


def _require_finite(features: Features, start: int) -> None:
    columns = [
        values.flatten(1) if values.ndim > 1 else values[:, None] for values in features.values()
    ]
    finite = torch.stack([values.isfinite().all(1) for values in columns]).all(0)
    if not finite.all():
        first = start + int((~finite).nonzero()[0, 0])
        raise TargetError(
            f"got {int((~finite).sum())} samples with statistics that are not finite, the first of "
            f"them number {first}; drop them"
        )


@final
class _Least:
    """The features of the samples with the least keys so far."""

    def __init__(self) -> None:
        self._parts: list[tuple[Tensor, Tensor, Features]] = []

    def add(self, features: Features, keys: Float[Tensor, " n"], start: int) -> None:
        """Add a block; equal keys count in the order of the samples."""
        order = keys.argsort(stable=True)[:SHOWN]
        self._parts.append((keys[order], order + start, picked(features, order)))
        if len(self._parts) > SHOWN:
            self._parts = [self._shortened()]

    def found(self) -> tuple[Int[Tensor, " k"], Features]:
        """Return numbers and features, least key first."""
        return self._shortened()[1:]

    def _shortened(self) -> tuple[Tensor, Tensor, Features]:
        keys = torch.cat([part[0] for part in self._parts])
        numbers = torch.cat([part[1] for part in self._parts])
        features = concatenated([part[2] for part in self._parts])
        order = keys.argsort(stable=True)[:SHOWN]
        return keys[order], numbers[order], picked(features, order)
