"""Evidence about a set of samples: every score beside the same score of real maps against real.

A number such as "FSD 32" says nothing by itself: with few maps, two sets of real maps differ too.
So the held-out real maps are split at random into disjoint halves, many times. Each time the
samples, thinned to the size of a half, meet one half, and the other half meets it as well:

    samples' score  =  median over splits of  s(samples', half)
    real score      =  median over splits of  s(other half, half),   band = its 5 to 95 % range

Both sides have the same set size, so biases of small sets are shared, and a score inside the band
cannot be told from real by that statistic with so many maps. Features are whitened by the fit
targets, which belong to neither side. The nearest-target ratio compares medians over all maps
instead; its band is a bootstrap of held-out against held-out.

Inputs are maps in model range. `real` means held out: maps that nothing was fitted to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.errors import TargetError
from ood_core.evidence import (
    COPY_DISTANCE,
    Band,
    ClosestPair,
    HistogramCurves,
    Score,
    SpectrumCurves,
    ValidationReport,
    verdict,
)
from ood_core.metrics.distances import Whitening, frechet
from ood_core.metrics.novelty import Nearest, distance_ratio, nearest
from ood_core.metrics.one_point import (
    cumulative,
    cumulative_distance,
    histogram,
    quantile_edges,
    uniform_edges,
)
from ood_core.metrics.scattering import Scattering
from ood_core.metrics.spectra import power_spectrum, spectrum_distance
from ood_core.metrics.two_sample import classifier_accuracy
from ood_core.seeds import Stream, generator
from ood_core.specs import Symmetry

__all__ = ["Score", "ValidationReport", "validate", "verdict"]

AnyMaps = Float[Tensor, "_ _ _ _"]  # sets differ in size; equal shapes are checked by `validate`

SPLITS = 40
CLASSIFIER_SPLITS = 10  # each split trains ten classifiers
BAND = (0.05, 0.95)
MAP_RANGE = (0.16, 0.84)  # of single maps, in curves
BINS = 60
SHOWN = 8  # closest pairs and least typical samples
FEATURE_PIXELS = 2**18  # transformed at once, at about half a kilobyte each

Statistic = Callable[[Tensor, Tensor], float]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    samples: Int[Tensor, " m"]
    left: Int[Tensor, " m"]
    right: Int[Tensor, " m"]


def validate(
    samples: AnyMaps, fit: AnyMaps, held_out: AnyMaps, symmetries: Sequence[Symmetry], root: int
) -> ValidationReport:
    """Measure samples against held-out real maps, and held-out maps against one another.

    Raises:
        TargetError: If a set is too small to split (2 samples, 2 fit, 4 held out), if shapes
            differ, or if a value is not finite.
    """
    _check(samples, fit, held_out)
    splits = _splits(len(samples), len(held_out), root)
    k, power, _ = power_spectrum(samples)
    power_real = power_spectrum(held_out)[1]
    features = _features(samples, fit, held_out)
    near, near_real = nearest(samples, fit, symmetries), nearest(held_out, fit, symmetries)
    scores = (
        _spectrum_score(power, power_real, splits),
        _pixel_score(samples, held_out, splits),
        *_feature_scores(*features, splits),
        _nearest_score(near.distance, near_real.distance, root),
    )
    copies = int((near.distance <= COPY_DISTANCE * near_real.distance.min()).sum())
    return ValidationReport(
        scores=scores,
        spectrum=SpectrumCurves(k, _range_of_maps(power), _range_of_maps(power_real)),
        histogram=_histograms(samples, held_out, splits),
        nearest_samples=near.distance,
        nearest_real=near_real.distance,
        closest=_closest(near),
        worst=tuple(features[0].square().sum(1).argsort(descending=True)[:SHOWN].tolist()),
        copies=copies,
        verdict=verdict(scores, copies),
    )


def _check(samples: AnyMaps, fit: AnyMaps, held_out: AnyMaps) -> None:
    for name, maps, least in (("samples", samples, 2), ("fit", fit, 2), ("held-out", held_out, 4)):
        if len(maps) < least:
            raise TargetError(f"got {len(maps)} {name} maps; expected at least {least} to validate")
        if maps.shape[1:] != fit.shape[1:]:
            got, expected = tuple(maps.shape[1:]), tuple(fit.shape[1:])
            raise TargetError(
                f"got {name} maps of shape {got}; expected {expected} as the fit maps"
            )
        bad = int((~maps.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise TargetError(f"got {bad} {name} maps with values that are not finite; drop them")


def _splits(samples: int, held_out: int, root: int) -> list[_Split]:
    size = min(held_out // 2, samples)
    splits = []
    for index in range(SPLITS):
        rng = generator(root, index, stream=Stream.RESAMPLE)
        real = torch.from_numpy(rng.permutation(held_out))
        chosen = torch.from_numpy(rng.permutation(samples)[:size])
        splits.append(_Split(chosen, real[:size], real[size : 2 * size]))
    return splits


def _features(
    samples: AnyMaps, fit: AnyMaps, held_out: AnyMaps
) -> tuple[Float[Tensor, "n f"], Float[Tensor, "m f"]]:
    """Log-scattering moments of samples and held-out maps, whitened by those of the fit maps."""
    size = min(fit.shape[-2:])  # of an oblong map, its first square
    scattering = Scattering(size, scales=min(3, size.bit_length() - 2))

    def moments(maps: AnyMaps) -> Tensor:
        rows = max(1, FEATURE_PIXELS // maps[0].numel())
        blocks = torch.split(maps[..., :size, :size], rows)
        return torch.cat([scattering.log_moments(block) for block in blocks])

    whitening = Whitening.fit(moments(fit))
    return whitening(moments(samples)), whitening(moments(held_out))


def _compare(
    statistic: Statistic, samples: Tensor, real: Tensor, splits: Sequence[_Split]
) -> tuple[float, float, float, float]:
    """Return the samples' median score, then real against real: median, low, high."""
    own = [statistic(samples[s.samples], real[s.right]) for s in splits]
    other = [statistic(real[s.left], real[s.right]) for s in splits]
    low, middle, high = _quantiles(other, (BAND[0], 0.5, BAND[1]))
    return _quantiles(own, (0.5,))[0], middle, low, high


def _quantiles(values: Sequence[float], levels: Sequence[float]) -> list[float]:
    at = torch.tensor(levels, dtype=torch.float64)
    return [float(q) for q in torch.tensor(values, dtype=torch.float64).quantile(at)]


def _spectrum_score(power: Tensor, real: Tensor, splits: Sequence[_Split]) -> Score:
    note = "mean over wavenumbers of |ln(power / real power)|; 0.1 is ten per cent"
    values = _compare(spectrum_distance, power, real, splits)
    return Score("spectrum_error", "power spectrum", *values, "lower", note)


def _pixel_score(samples: AnyMaps, held_out: AnyMaps, splits: Sequence[_Split]) -> Score:
    edges = quantile_edges(torch.cat([samples, held_out]))
    spread = float(held_out.double().std().clamp(min=1e-12))

    def statistic(a: Tensor, b: Tensor) -> float:
        return cumulative_distance(a, b, edges) / spread

    note = "Wasserstein-1 distance of pooled pixels, in standard deviations of real pixels"
    values = _compare(statistic, cumulative(samples, edges), cumulative(held_out, edges), splits)
    return Score("pixel_wasserstein", "pixel values", *values, "lower", note)


def _feature_scores(
    features: Tensor, real: Tensor, splits: Sequence[_Split]
) -> tuple[Score, Score]:
    note = (
        "Fréchet distance of whitened log-scattering moments,"
        f" {len(splits[0].left)} maps on either side"
    )
    values = _compare(frechet, features, real, splits)
    fsd = Score("fsd", "scattering distance (FSD)", *values, "lower", note)
    note = "accuracy of a linear classifier on the same features; 0.5 is indistinguishable"
    values = _compare(classifier_accuracy, features, real, splits[:CLASSIFIER_SPLITS])
    return fsd, Score("c2st", "classifier test", *values, "half", note)


def _nearest_score(samples: Tensor, real: Tensor, root: int) -> Score:
    rng = generator(root, SPLITS, stream=Stream.RESAMPLE)
    rows = torch.from_numpy(rng.integers(len(real), size=(10 * SPLITS, 2, len(real))))
    other = [distance_ratio(real[a], real[b]) for a, b in rows]
    low, high = _quantiles(other, BAND)
    note = "median distance to the nearest target over that of held-out maps; below 0.9 is copying"
    value = distance_ratio(samples, real)
    return Score("nearest_ratio", "nearest-target ratio", value, 1.0, low, high, "one", note)


def _range_of_maps(rows: Float[Tensor, "n c bins"]) -> Band:
    levels = torch.tensor([0.5, *MAP_RANGE], dtype=rows.dtype)
    return Band(*rows.quantile(levels, dim=0))


def _histograms(samples: AnyMaps, held_out: AnyMaps, splits: Sequence[_Split]) -> HistogramCurves:
    edges = uniform_edges(torch.cat([samples, held_out]), BINS)
    real = histogram(held_out, edges)
    halves = torch.stack([real[s.left].mean(0) for s in splits])
    low, high = halves.quantile(torch.tensor(BAND, dtype=halves.dtype), dim=0)
    centres = (edges[:, 1:] + edges[:, :-1]) / 2
    return HistogramCurves(
        centres, histogram(samples, edges).mean(0), Band(real.mean(0), low, high)
    )


def _closest(near: Nearest) -> tuple[ClosestPair, ...]:
    order = near.distance.argsort(stable=True)[:SHOWN].tolist()
    columns = near.target.tolist(), near.element.tolist(), near.distance.tolist()
    return tuple(ClosestPair(i, *(column[i] for column in columns)) for i in order)
