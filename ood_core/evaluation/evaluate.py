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

Scores are made of the rows of `ood_core.evaluation.features`, wherever these come from: `validate`
measures maps in memory, `compare` takes rows that workers measured and stored, and both give the
same. Sums, extremes and copies are of all samples; what needs rows beside one another sees a panel
of them (`ood_core.evaluation.streaming`), and every score tells how many.

Inputs are maps in model range. `real` means held out: maps that nothing was fitted to.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.evaluation.features import AnyMaps, Rows, Ruler
from ood_core.evaluation.memorization import chance, latent_check, nearest_rows, power, threshold
from ood_core.evaluation.pooled import (
    BAND,
    fractions,
    histograms,
    pixel_distance,
    range_of_maps,
    with_whole,
)
from ood_core.evaluation.results import (
    COPY_DISTANCE,
    ClosestPair,
    CopyCheck,
    LeakCheck,
    Score,
    SpectrumCurves,
    ValidationReport,
)
from ood_core.evaluation.streaming import Limits, Survey, Tally, survey
from ood_core.evaluation.summary import verdict
from ood_core.evaluation.two_sample import judge
from ood_core.metrics.distances import Whitening, frechet
from ood_core.metrics.leak import leak
from ood_core.metrics.novelty import distance_ratio
from ood_core.metrics.spectra import power_spectrum, spectrum_distance
from ood_core.metrics.two_sample import classifier_accuracy
from ood_core.numerics.random import Stream, generator

__all__ = ["Score", "ValidationReport", "compare", "validate", "verdict"]

SPLITS = 40
CLASSIFIER_SPLITS = 10  # each split trains ten classifiers

Statistic = Callable[[Tensor, Tensor], float]


@final
@dataclass(frozen=True, slots=True, eq=False)
class _Split:
    samples: Int[Tensor, " m"]
    left: Int[Tensor, " m"]
    right: Int[Tensor, " m"]


def validate(
    samples: AnyMaps,
    fit: AnyMaps,
    held_out: AnyMaps,
    symmetries: Sequence[Symmetry],
    root: int,
    domain: AnyMaps | None = None,
) -> ValidationReport:
    """Measure samples against held-out real maps, and held-out maps against one another.

    `domain` has maps of the base's own domain, for the leak.

    Raises:
        TargetError: If a set is too small to split (2 samples, 2 fit, 4 held out), if shapes
            differ, or if a value is not finite.
    """
    _check(samples, fit, held_out)
    ruler = Ruler.lay(fit, held_out, symmetries)
    own = None if domain is None else ruler.measure(domain)["scattering"]
    return compare(ruler, [ruler.measure(samples)], len(samples), root, own)


def compare(
    ruler: Ruler,
    blocks: Iterable[Rows],
    count: int,
    root: int,
    domain: Float[Tensor, "b f"] | None = None,
    latents: tuple[Latents, Latents] | None = None,
) -> ValidationReport:
    """Compare the rows of `count` samples, in blocks and in order, with the ruler's targets.

    `domain` has the scattering rows of maps of the base's own domain; without them no leak is
    measured. `latents` are those of the fit targets and those that samples were drawn from;
    without them no copies are looked for there.

    Raises:
        TargetError: If a set is too small (see `validate`) or a value is not finite.
    """
    _require_enough(count, len(ruler.fit), len(ruler.held_out))
    fit, real = ruler.measure(ruler.fit), ruler.measure(ruler.held_out)
    whitening = Whitening.fit(fit["scattering"])
    limits, rates = _limits(real, whitening, fit)
    found = survey(blocks, count, whitening, limits, root)
    rows = found.panel
    splits = _splits(len(rows["distance"]), len(real["distance"]), root)
    features = whitening(rows["scattering"]), whitening(real["scattering"])
    scores = with_whole(
        (
            _spectrum_score(rows, real, splits),
            _pixel_score(rows, real, ruler, splits),
            *_feature_scores(*features, splits),
            _nearest_score(rows["distance"], real["distance"], root),
        ),
        found.tally,
        Tally.of(real, whitening),
        ruler,
    )
    judgement = judge(rows, fit, real, features, root)
    copying = _copying(found, limits, rates, ruler, root)
    if latents is not None:
        copying = (*copying, latent_check(*latents, ruler.symmetries, root))
    k = power_spectrum(ruler.fit[:1])[0]
    return ValidationReport(
        scores=scores,
        spectrum=SpectrumCurves(k, range_of_maps(rows["power"]), range_of_maps(real["power"])),
        histogram=histograms(found.tally, real, ruler, [split.left for split in splits]),
        nearest_samples=rows["distance"],
        nearest_real=real["distance"],
        closest=_closest(found),
        worst=found.worst,
        count=count,
        copies=found.copies["plain"],
        judgement=judgement,
        verdict=verdict(scores, found.copies["plain"], judgement, copying),
        copying=copying,
        leak=None if domain is None else _leak(*features, limits.fit, whitening(domain)),
    )


def _limits(real: Rows, whitening: Whitening, fit: Rows) -> tuple[Limits, tuple[float, float]]:
    """Distances that flag copies, calibrated on held-out maps, and the rates of real maps there."""
    targets = whitening(fit["scattering"])
    shifted, rate = threshold(real["shifted"])
    statistic, other = threshold(nearest_rows(whitening(real["scattering"]), targets))
    plain = COPY_DISTANCE * float(real["distance"].min())
    return Limits(targets, plain, shifted, statistic), (rate, other)


def _copying(
    found: Survey, limits: Limits, rates: tuple[float, float], ruler: Ruler, root: int
) -> tuple[CopyCheck, ...]:
    def check(level: str, title: str, within: float, rate: float) -> CopyCheck:
        flagged = found.copies[level]
        p_value = chance(flagged, found.tally.count, len(ruler.held_out))
        return CopyCheck(level, title, within, rate, flagged, p_value, asked=found.tally.count)

    pixels = check("shifted", "pixels, over symmetries and shifts", limits.shifted, rates[0])
    return (
        replace(pixels, power=power(ruler, limits.shifted, root)),
        check("statistic", "scattering moments", limits.statistic, rates[1]),
    )


def _leak(rows: Tensor, real: Tensor, targets: Tensor, domain: Tensor) -> LeakCheck:
    found = leak(rows, real, targets, domain)
    return LeakCheck(found.samples, found.held_out, found.p_value, len(domain), len(rows))


def _check(samples: AnyMaps, fit: AnyMaps, held_out: AnyMaps) -> None:
    _require_enough(len(samples), len(fit), len(held_out))
    for name, maps in (("samples", samples), ("fit", fit), ("held-out", held_out)):
        if maps.shape[1:] != fit.shape[1:]:
            got, expected = tuple(maps.shape[1:]), tuple(fit.shape[1:])
            raise TargetError(
                f"got {name} maps of shape {got}; expected {expected} as the fit maps"
            )
        bad = int((~maps.isfinite()).flatten(1).any(1).sum())
        if bad:
            raise TargetError(f"got {bad} {name} maps with values that are not finite; drop them")


def _require_enough(samples: int, fit: int, held_out: int) -> None:
    for name, count, least in (("samples", samples, 2), ("fit", fit, 2), ("held-out", held_out, 4)):
        if count < least:
            raise TargetError(f"got {count} {name} maps; expected at least {least} to validate")


def _splits(samples: int, held_out: int, root: int) -> list[_Split]:
    size = min(held_out // 2, samples)
    splits = []
    for index in range(SPLITS):
        rng = generator(root, index, stream=Stream.RESAMPLE)
        real = torch.from_numpy(rng.permutation(held_out))
        chosen = torch.from_numpy(rng.permutation(samples)[:size])
        splits.append(_Split(chosen, real[:size], real[size : 2 * size]))
    return splits


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


def _spectrum_score(rows: Rows, real: Rows, splits: Sequence[_Split]) -> Score:
    note = "mean over wavenumbers of |ln(power / real power)|; 0.1 is ten per cent"
    values = _compare(spectrum_distance, rows["power"].double(), real["power"].double(), splits)
    return Score("spectrum_error", "power spectrum", *values, "lower", note)


def _pixel_score(rows: Rows, real: Rows, ruler: Ruler, splits: Sequence[_Split]) -> Score:
    def statistic(a: Tensor, b: Tensor) -> float:
        return pixel_distance(a.mean(0), b.mean(0), ruler)

    note = "Wasserstein-1 distance of pooled pixels, in standard deviations of real pixels"
    values = _compare(statistic, fractions(rows, ruler), fractions(real, ruler), splits)
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


def _closest(found: Survey) -> tuple[ClosestPair, ...]:
    rows = found.closest_rows
    columns = found.closest, rows["target"], rows["element"], rows["distance"]
    return tuple(ClosestPair(*pair) for pair in zip(*(c.tolist() for c in columns), strict=True))
