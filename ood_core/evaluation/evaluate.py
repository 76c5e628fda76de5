"""Evaluation of a set of samples: every score beside the same score of real maps against real.

A number such as "FSD 32" says nothing by itself: with few maps, two sets of real maps differ too.
So the held-out real maps are split at random into disjoint halves, many times. Each time the
samples, thinned to the size of a half, are compared with one half, and so is the other half:

    samples' score  =  median over splits of  s(samples', half)
    real score      =  median over splits of  s(other half, half),   band = its 5 to 95 % range

Both sides have the same set size, so biases of small sets are shared, and a score inside the band
cannot be told from real by that statistic with so many maps. Features are whitened by the fit
targets, which belong to neither side. The nearest-target ratio compares medians over all maps
instead; its band is a bootstrap of as many real maps against the held-out ones.

`evaluate` takes physical maps, `evaluate_maps` maps in model range, and `evaluate_features`
features that workers extracted and stored; all give the same scores. Sums, extremes and near copies
are of all samples; what needs samples beside one another uses a random subsample
(`ood_core.evaluation.streaming`), and the result tells how many.

**To add a score**, write its distance in `ood_core/metrics/` and add an entry to `STATISTICS`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from rich.progress import track
from scipy.stats import norm
from scipy.stats import t as student
from torch import Tensor

from ood_core.arrays import Latents
from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.evaluation.copies import FALSE_ALARMS, copy_power
from ood_core.evaluation.dependence import Dependence, Places
from ood_core.evaluation.features import AnyMaps, FeatureExtractor, Features
from ood_core.evaluation.memorization import CopyThresholds, check_latents, check_maps
from ood_core.evaluation.results import (
    Better,
    CopySearch,
    DomainLeakage,
    EvaluationResult,
    Score,
    SpectrumCurves,
)
from ood_core.evaluation.streaming import (
    BAND,
    FeatureSums,
    accumulate,
    histograms,
    pixel_distance,
    pixel_fractions,
    range_of_maps,
    repeats,
    with_whole,
)
from ood_core.evaluation.summary import summarize
from ood_core.evaluation.two_sample import ByNumber, network_test, two_sample_tests
from ood_core.maps.target_set import TargetSet
from ood_core.metrics.channels import coherence_distance
from ood_core.metrics.distances import Whitening, frechet
from ood_core.metrics.leak import leak
from ood_core.metrics.novelty import distance_ratio
from ood_core.metrics.spectra import power_spectrum, spectrum_distance
from ood_core.metrics.two_sample import classifier_accuracy
from ood_core.numerics.random import Root

SPLITS = 40
RESAMPLES = 400  # of held-out maps, for the band of the nearest-target ratio
BLOCK = 64  # maps whose features are extracted at once

PhysicalMaps = Float[np.ndarray, "_ c y x"]


def evaluate(
    maps: PhysicalMaps, targets: TargetSet, *, seed: int = 0, progress: bool = True
) -> EvaluationResult:
    """Compare synthetic maps with held-out real maps, and these with one another.

    `maps` are `(n, c, y, x)` in `targets.unit`, as `Synthesizer.sample` gives them. `seed` fixes
    all that is drawn (splits, resamples, permutations): equal arguments give equal results.
    `progress` shows a bar on a terminal.

    Raises:
        TargetError: a set is too small (2 samples, 2 fit, 4 held-out maps), shapes differ, or a
            value is not finite.
    """
    samples = targets.ranged(np.asarray(maps, np.float32))
    root = Root.of(f"evaluate/{seed}")
    return evaluate_maps(
        samples,
        targets.fit_ranged,
        targets.held_out_ranged,
        targets.symmetries,
        root,
        places=targets.sides,
        missing=targets.missing,
        network=True,
        progress=progress,
    )


def evaluate_maps(
    samples: AnyMaps,
    fit: AnyMaps,
    held_out: AnyMaps,
    symmetries: Sequence[Symmetry],
    root: Root,
    domain: AnyMaps | None = None,
    *,
    places: Places | None = None,
    missing: NDArray[np.bool_] | None = None,
    network: bool = False,
    progress: bool = False,
) -> EvaluationResult:
    """Compare samples with targets, all in model range.

    `domain` has maps of the base's own domain, for the leakage. `places` are those of the fit maps,
    then of the held-out ones, in sides of a map. `missing` pixels, of maps in the same order, are
    left out (`ood_core.evaluation.features`). With `network` one looks at the maps, which takes
    seconds.

    Raises:
        TargetError: as for `evaluate`.
    """
    _check(samples, fit, held_out)
    extractor = FeatureExtractor.of(fit, held_out, symmetries, missing)
    own = None if domain is None else extractor.extract(domain)["scattering"]
    blocks = _extracted(extractor, samples, progress)
    return evaluate_features(
        extractor,
        blocks,
        len(samples),
        root,
        own,
        places=places,
        maps=(lambda numbers: samples[torch.tensor(numbers)]) if network else None,
    )


def evaluate_features(
    extractor: FeatureExtractor,
    blocks: Iterable[Features],
    count: int,
    root: Root,
    domain: Float[Tensor, "b f"] | None = None,
    latents: tuple[Latents, Latents] | None = None,
    statistics: "Sequence[Statistic] | None" = None,
    places: Places | None = None,
    maps: ByNumber | None = None,
) -> EvaluationResult:
    """Compare the features of `count` samples, in blocks and in order, with those of the targets.

    `domain` has the scattering moments of maps of the base's own domain; without them no leakage is
    measured. `latents` are those of the fit targets and those that samples were drawn from;
    without them no copies are looked for there. `statistics` are the scores; None, all of them.
    `places` are those of the fit maps, then of the held-out ones
    (`ood_core.evaluation.dependence`). `maps` gives samples by number; without it no network looks
    at them.

    Raises:
        TargetError: a set is too small (see `evaluate`) or a value is not finite.
    """
    _require_enough(count, len(extractor.fit), len(extractor.held_out))
    fit, real = extractor.targets
    reference = Reference(extractor, Whitening.fit(fit["scattering"]))
    thresholds = CopyThresholds.calibrate(fit, real, reference.whitening, count)
    found = accumulate(blocks, count, reference.whitening, thresholds, root)
    samples = found.subsample
    places_of_fit, held_out = (
        (None, None) if places is None else np.split(places, [len(extractor.fit)])
    )
    beside = reference.ordinary(fit), places_of_fit
    dependence = Dependence.measure(reference.ordinary(real), root, held_out, beside)
    splits = halves(len(samples["distance"]), dependence, root.child("splits"))
    scores = with_whole(
        {
            **{
                s.name: banded_score(s, samples, real, reference, splits)
                for s in (STATISTICS if statistics is None else statistics)
                if s.needs in samples
            },
            "nearest_ratio": nearest_score(samples["distance"], real["distance"], root, dependence),
        },
        found.sums,
        FeatureSums.of(real, reference.whitening),
        extractor,
    )
    moments = reference.moments(samples), reference.moments(real)
    tests = two_sample_tests(samples, fit, real, moments, root.child("tests"), dependence)
    if maps is not None and extractor.missing is None:
        drawn, seen = found.drawn.tolist(), root.child("network")
        judge = network_test(
            maps, drawn, extractor.held_out, extractor.symmetries, seen, dependence
        )
        tests = replace(tests, network=judge)
    copies = root.child("memorization")
    worth = dependence.effective / dependence.count
    memorization = [*check_maps(found.flagged, count, thresholds, extractor, copies, worth)]
    if latents is not None:
        memorization.append(check_latents(*latents, extractor.symmetries, copies))
    single = CopySearch(
        found.copies,
        dict(thresholds.single.limits),
        copy_power(extractor, thresholds.single, copies),
        FALSE_ALARMS,
        thresholds.shared,
        found.repeats,
        repeats(real),
    )
    k = power_spectrum(extractor.fit[:1])[0]
    return EvaluationResult(
        summary=summarize(scores, single, tests, memorization),
        scores=scores,
        spectrum=SpectrumCurves(k, range_of_maps(samples["power"]), range_of_maps(real["power"])),
        histogram=histograms(found.sums, real, extractor, [split.left for split in splits]),
        nearest_samples=samples["distance"],
        nearest_real=real["distance"],
        closest=found.closest,
        least_typical=found.least_typical,
        count=count,
        copies=single,
        tests=tests,
        memorization=tuple(memorization),
        leakage=None
        if domain is None
        else _leakage(*moments, thresholds.targets, reference.whitening(domain)),
    )


@final
@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What scores need of the targets: their extractor and the whitening of scattering moments."""

    extractor: FeatureExtractor
    whitening: Whitening

    def moments(self, features: Features) -> Float[Tensor, "n f"]:
        """Return whitened scattering moments."""
        return self.whitening(features["scattering"])

    def ordinary(self, features: Features) -> Float[Tensor, "n f"]:
        """Return what neighbouring maps are alike in: moments, and logarithms of power."""
        power = features["power"].double().clamp(min=1e-30).log().flatten(1)
        return torch.cat([self.moments(features), power], dim=1)

    def pixels(self, features: Features) -> Float[Tensor, "n c columns"]:
        """Return cumulative fractions of pixels."""
        return pixel_fractions(features, self.extractor)


@final
@dataclass(frozen=True, slots=True)
class Statistic:
    """A distance of two sets of maps of equal size: `distance` of what `columns` takes of features.

    `note` explains it in the report, where `{size}` is the number of maps on either side. It is
    taken over `splits` splits of the held-out maps, of maps that have the feature it `needs`.
    """

    name: str
    title: str
    note: str
    columns: Callable[[Reference, Features], Tensor]
    distance: Callable[[Tensor, Tensor, Reference], float]
    better: Better = "lower"
    splits: int = SPLITS
    needs: str = "power"


STATISTICS: tuple[Statistic, ...] = (
    Statistic(
        "spectrum_error",
        "power spectrum",
        "mean over wavenumbers of |ln(power / real power)|; 0.1 is ten per cent",
        lambda _, features: features["power"].double(),
        lambda a, b, _: spectrum_distance(a, b),
    ),
    Statistic(
        "coherence_error",
        "coherence of channels",
        "mean over pairs of channels and wavenumbers of |coherence - real coherence|",
        lambda _, features: features["cross"].double(),
        lambda a, b, _: coherence_distance(a, b),
        needs="cross",
    ),
    Statistic(
        "pixel_wasserstein",
        "pixel values",
        "Wasserstein-1 distance of pooled pixels, in standard deviations of real pixels",
        Reference.pixels,
        lambda a, b, reference: pixel_distance(a.mean(0), b.mean(0), reference.extractor),
    ),
    Statistic(
        "fsd",
        "scattering distance (FSD)",
        "Fréchet distance of whitened log-scattering moments, {size} maps on either side",
        Reference.moments,
        lambda a, b, _: frechet(a, b),
    ),
    Statistic(
        "c2st",
        "classifier test",
        "accuracy of a linear classifier on the same features; 0.5 is indistinguishable",
        Reference.moments,
        lambda a, b, _: classifier_accuracy(a, b),
        better="half",
        splits=19,  # each trains ten classifiers; no fewer have a highest one of 20
    ),
)
"""The scores with a real-against-real band, in the order of the report."""


@final
@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of samples, and of two disjoint halves of the held-out maps; all are as many."""

    samples: Int[Tensor, " m"]
    left: Int[Tensor, " m"]
    right: Int[Tensor, " m"]


def halves(samples: int, held_out: Dependence, root: Root) -> list[Split]:
    """Draw halves of the held-out maps, by blocks where neighbours are alike."""
    size = min(held_out.count // 2, samples)
    splits = []
    for index in range(SPLITS):
        rng = root.generator(index)
        real = held_out.shuffled(rng)
        chosen = torch.from_numpy(rng.permutation(samples)[:size])
        splits.append(Split(chosen, real[:size], real[size : 2 * size]))
    return splits


def banded_score(
    statistic: Statistic,
    samples: Features,
    real: Features,
    reference: Reference,
    splits: Sequence[Split],
) -> Score:
    """Return the samples' median score, and of real against real the median, low and high."""
    columns, held_out = (statistic.columns(reference, f) for f in (samples, real))
    own, other = [], []
    for split in splits[: statistic.splits]:
        right = held_out[split.right]
        own.append(statistic.distance(columns[split.samples], right, reference))
        other.append(statistic.distance(held_out[split.left], right, reference))
    low, middle, high = _quantiles(other, (BAND[0], 0.5, BAND[1]))
    (value,) = _quantiles(own, (0.5,))
    note = statistic.note.format(size=len(splits[0].left))
    return Score(statistic.name, statistic.title, value, middle, low, high, statistic.better, note)


def nearest_score(
    samples: Float[Tensor, " n"],
    real: Float[Tensor, " m"],
    root: Root,
    dependence: Dependence | None = None,
) -> Score:
    """Compare median distances to the nearest target; the band is for `n` and `m` real maps.

    Of `m` held-out maps that are worth `w` (`dependence`) medians spread as those of `w` do. Their
    own spread is known from `w`: it is raised to be unbiased, and by Student's t over the normal.
    """
    rng, count = root.child("nearest_ratio").generator(), len(real)
    worth = max(2.0, dependence.effective if dependence else count)
    logs = [_median_logs(real, n, rng) for n in (len(samples), round(worth))]
    wider = float(student.ppf(BAND[1], worth - 1) / norm.ppf(BAND[1]))
    wider *= ((1 - 1 / count) / (1 - 1 / worth)) ** 0.5
    low, high = _quantiles((wider * (logs[0] - logs[1])).exp().tolist(), BAND)
    note = "median distance to the nearest target over that of held-out maps; 1 is as novel"
    value = distance_ratio(samples, real)
    return Score("nearest_ratio", "nearest-target ratio", value, 1.0, low, high, "one", note)


def _median_logs(
    distances: Tensor, count: int, rng: np.random.Generator
) -> Float[Tensor, " resamples"]:
    """Medians of `count` log distances drawn with replacement, smoothed with the spread kept.

    Medians of draws without smoothing take few values, and their spread is known badly (Silverman &
    Young 1987). Less than a sixth of the distances, as 0 of duplicates, cannot widen it by much.
    """
    logs = distances.double().clamp(min=1e-12).log()
    low, half, high = logs.quantile(logs.new_tensor([0.16, 0.5, 0.84]))
    logs = logs.clamp(half - 1.5 * (high - low), half + 1.5 * (high - low))  # 3 sigma
    middle, spread, width = logs.mean(), float(logs.std()), 0.9 * len(logs) ** -0.2
    drawn = torch.from_numpy(rng.integers(len(logs), size=(RESAMPLES, count)))
    noise = spread * width * torch.from_numpy(rng.standard_normal(tuple(drawn.shape)))
    smooth: Tensor = (logs[drawn] - middle + noise) / (1 + width**2) ** 0.5 + middle
    return smooth.quantile(0.5, dim=1)


def _quantiles(values: Sequence[float], levels: Sequence[float]) -> list[float]:
    """Of `s` values at `level (s + 1)`: a further value lies beyond as often as the level says."""
    return [float(q) for q in np.quantile(values, levels, method="weibull")]


def _leakage(own: Tensor, real: Tensor, targets: Tensor, domain: Tensor) -> DomainLeakage:
    found = leak(own, real, targets, domain)
    return DomainLeakage(found.samples, found.held_out, found.p_value, len(domain), len(own))


def _extracted(extractor: FeatureExtractor, maps: AnyMaps, progress: bool) -> Iterator[Features]:
    blocks = list(enumerate(maps.split(BLOCK)))
    for number, block in track(blocks, "evaluating", disable=not progress, transient=True):
        yield extractor.extract(block, number * BLOCK)


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
            raise TargetError(f"got {count} {name} maps; expected at least {least} to evaluate")
