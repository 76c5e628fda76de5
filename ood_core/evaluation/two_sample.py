"""Do samples differ from held-out maps in statistics that no part of the method optimises?

Steering pulls scattering moments, powers of bands and of excursion sets, mean, spread, skewness and
pixel quantiles, so these say little about its samples. What is tested here is not among its aims:
three-point statistics scale by scale, phases, boundaries and connectivity of excursion sets, peaks
and minima, detail given the coarse map, shapes of objects where maps show one at their middle, and,
where there are several channels, their coherence and common third moments (`FAMILIES`). It is not
independent of them all the same: the sum of a bispectrum over all triangles is a skewness, and the
power of excursion sets at small scales goes with the length of their boundaries. Every map is
brought to its own mean and standard deviation first where thresholds matter, and the area over a
threshold is left out, since pixel quantiles fix it.

Features are whitened by the fit targets, which belong to neither side. Each family is tested by the
energy test of samples against held-out maps; p-values are adjusted for their number (Holm). The
p-values take maps as exchangeable: where neighbours in the file are alike, only maps a block apart
are tested (`ood_core.evaluation.dependence`). The same test between
fit and held-out targets says whether the two splits are exchangeable at all: where they are not,
samples that were true to the first would differ from the second.

Four more judges decide nothing and are shown beside these: a linear classifier on all families;
PQMass on the same features, which asks how the two sets share cells about some of their members;
the sliced Wasserstein distance of these, which asks how far mass must be moved, tails included;
and a small convolutional network, which sees the maps themselves (`network_test`).
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import comb, inf

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ood_core.config.targets import Symmetry
from ood_core.evaluation.dependence import Dependence
from ood_core.evaluation.features import FAMILIES, AnyMaps, Family, FeatureArray, Features
from ood_core.evaluation.results import (
    ALPHA,
    ClassifierTest,
    FamilyTest,
    NetworkTest,
    SlicedTest,
    Tell,
    TwoSampleTests,
    Variety,
)
from ood_core.metrics.convolutional import MIN_MAPS, MIN_SIDE, convolutional_test
from ood_core.metrics.coverage import NEIGHBOURS, coverage, vendi
from ood_core.metrics.discrepancy import (
    PERMUTATIONS,
    Discrepancy,
    adjusted,
    detectable_difference,
    energy_distance,
    energy_test,
    median_distance,
    row_distances,
)
from ood_core.metrics.distances import Whitening
from ood_core.metrics.pqmass import enough, pqmass
from ood_core.metrics.sliced import sliced_wasserstein
from ood_core.metrics.two_sample import classifier_test
from ood_core.numerics.random import Root

MAX_MAPS = 512  # of a set; which ones is drawn
SPLITS = 20  # of held-out maps, for variety
MIN_CLASSIFIED = 4  # maps of a half: two to train on and two to predict
NUMBERS = 2**25  # of the maps of either set that a network sees
TELLS, TELL_SIDE = 6, 32  # samples that the network is surest of, and cells a side
ByNumber = Callable[[Sequence[int]], AnyMaps]
"""Gives maps in model range by their numbers, which rise."""

VARIETY = {
    "precision": ("precision", "part of samples among the real maps"),
    "recall": ("recall", "part of real maps among the samples"),
    "density": (
        "density", "how deep among the real maps samples lie; 1 for equal distributions",
    ),
    "coverage": ("coverage", "part of real maps with a sample in their neighbourhood"),
    "vendi": ("distinct maps (Vendi)", "effective number of different maps in a set of equal size"),
}  # fmt: skip


def two_sample_tests(
    samples: Features,
    fit: Features,
    held_out: Features,
    steered: tuple[FeatureArray, FeatureArray],
    root: Root,
    dependence: Dependence | None = None,
) -> TwoSampleTests:
    """Test samples against held-out maps; `steered` has whitened scattering moments of both.

    Of held-out maps whose neighbours are alike (`dependence`) one of each block is taken; of fit
    targets as well where they are compared with held-out ones.

    Sets are features of `ood_core.evaluation.features`: of 2 samples, 2 fit and 4 held-out maps at
    least.
    """
    families = [family for name, family in FAMILIES.items() if name in samples]
    unsteered = [family for family in families if not family.steered]
    first = unsteered[0].name
    sizes = {"samples": samples[first], "held out": held_out[first], "fit": fit[first]}
    order, other, few = (_thinned(len(s), root.child("order", name)) for name, s in sizes.items())
    held = dependence or Dependence(len(held_out[first]), 1, float(len(held_out[first])))
    if held.block > 1:
        other = held.apart(root)
        other = other[_thinned(len(other), root.child("order", "apart"))]
    alone = few.sort().values[:: held.block] if held.block > 1 else few
    triples = [
        (samples[f.name][order], held_out[f.name][other], fit[f.name][few]) for f in unsteered
    ]
    apart = [fit[f.name][alone] for f in unsteered]
    tests, control = [], []
    for family, (own, real, targets), some in zip(unsteered, triples, apart, strict=True):
        tests.append(_test(family, *_whitened(own, real, targets), len(unsteered), root))
        control.append(_exchangeable(family, some, real, root))
    raised = adjusted([test.p_value for test in tests])
    raised_control = adjusted([found.p_value for found in control])
    tests = [
        replace(test, adjusted=p, targets_distance=found.value, targets_adjusted=q)
        for test, p, found, q in zip(tests, raised, control, raised_control, strict=True)
    ]
    scattering = FAMILIES["scattering"]
    tests.append(_test(scattering, steered[0][order], steered[1][other], 1, root))
    joined = [torch.cat(sets, dim=1) for sets in zip(*triples, strict=True)]
    own, real = _whitened(*joined)
    return TwoSampleTests(
        samples=len(order),
        held_out=len(other),
        fit=len(few),
        effective=held.effective,
        block=held.block,
        families=tuple(tests),
        attainable_p=min(len(unsteered) * attainable_p(len(order), len(other)), 1.0),
        classifier=_classified(own, real),
        variety=_variety(own, real, root.child("variety")),
        sliced=_sliced(own, real, root.child("sliced")),
        mass_p=_mass(own, real, root.child("mass")),
    )


def network_test(
    samples: ByNumber,
    numbers: Sequence[int],
    held_out: AnyMaps,
    symmetries: Sequence[Symmetry],
    root: Root,
    dependence: Dependence,
) -> NetworkTest | None:
    """Let a network tell samples of these `numbers` from held-out maps; None if there are few."""
    apart = dependence.apart(root)
    most = min(MAX_MAPS, max(2 * MIN_MAPS, NUMBERS // held_out[0].numel()))
    own, other = (
        torch.from_numpy(root.child("order", name).generator().permutation(count)[:most])
        for name, count in (("samples", len(numbers)), ("held out", len(apart)))
    )
    if min(len(own), len(other)) < MIN_MAPS or min(held_out.shape[-2:]) < MIN_SIDE:
        return None
    order = own.sort().indices  # read in rising order, compared in random order
    chosen = [int(numbers[row]) for row in own[order].tolist()]
    maps, real = samples(chosen)[order.argsort()], held_out[apart[other]]
    told = convolutional_test(maps, real, symmetries, root.child("samples"))
    half, control = len(real) // 2, None
    if half >= MIN_MAPS:
        parts = real[:half], real[half : 2 * half]
        control = convolutional_test(*parts, symmetries, root.child("halves")).found
    y, x = (min(TELL_SIDE, cells) for cells in told.where.shape[1:])
    where = torch.nn.functional.adaptive_avg_pool2d(told.where, (y, x))
    surest = told.logits.argsort(descending=True, stable=True)[:TELLS].tolist()
    return NetworkTest(
        samples=len(maps),
        held_out=len(real),
        accuracy=told.found.value,
        p_value=told.found.p_value,
        real_accuracy=None if control is None else control.value,
        real_p=None if control is None else control.p_value,
        tells=tuple(
            Tell(int(numbers[int(own[row])]), float(told.logits[row]), where[row].double())
            for row in surest
        ),
    )


def attainable_p(n: int, m: int) -> float:
    """Return the least p-value that the energy test of `n` and `m` maps can have."""
    divisions = comb(n + m, n)
    if divisions > PERMUTATIONS:
        return 1 / (1 + PERMUTATIONS)
    return (2 if n == m else 1) / divisions  # equal sets may change places


def _thinned(count: int, root: Root) -> Int[Tensor, " maps"]:
    return torch.from_numpy(root.generator().permutation(count)[:MAX_MAPS])


def _whitened(
    own: FeatureArray, real: FeatureArray, fit: FeatureArray
) -> tuple[FeatureArray, FeatureArray]:
    whitening = Whitening.fit(fit)
    return whitening(own), whitening(real)


def _exchangeable(
    family: Family, fit: FeatureArray, held_out: FeatureArray, root: Root
) -> Discrepancy:
    """Test fit targets against held-out ones: if they differ, samples cannot but differ.

    Both are whitened by both together: by one of them alone, they would not be exchangeable.
    """
    rng = root.child("targets", family.name).generator()
    whitening = Whitening.fit(torch.cat([fit, held_out]))
    sets = whitening(fit), whitening(held_out)
    return Discrepancy(energy_distance(*sets), energy_test(*sets, rng).p_value)


def _test(
    family: Family, own: FeatureArray, real: FeatureArray, families: int, root: Root
) -> FamilyTest:
    """Test samples against real maps, halves of the real maps for control, and the power."""
    root = root.child("family", family.name)
    half = len(real) // 2
    halves = real[:half], real[half : 2 * half]
    level = ALPHA / families  # what Holm asks of the smallest p-value
    detectable = inf, inf
    if attainable_p(len(own), len(real)) <= level:
        rng = root.child("power").generator()
        detectable = detectable_difference(real, len(own), len(real), rng, level=level)
    return FamilyTest(
        name=family.name,
        title=family.title,
        steered=family.steered,
        features=own.shape[1],
        distance=energy_distance(own, real),
        p_value=energy_test(own, real, root.child("samples").generator()).p_value,
        adjusted=None,
        real_distance=energy_distance(*halves),
        real_p=energy_test(*halves, root.child("halves").generator()).p_value,
        detectable_shift=detectable[0],
        detectable_distance=detectable[1],
    )


def _classified(own: FeatureArray, real: FeatureArray) -> ClassifierTest | None:
    half = len(real) // 2
    if min(len(own), half) < MIN_CLASSIFIED:
        return None
    found, control = classifier_test(own, real), classifier_test(real[:half], real[half:])
    return ClassifierTest(found.value, found.p_value, control.value, control.p_value)


def _sliced(own: FeatureArray, real: FeatureArray, root: Root) -> SlicedTest | None:
    half = len(real) // 2
    if min(len(own), half) < 2:
        return None
    found = sliced_wasserstein(own, real, root)
    control = sliced_wasserstein(real[:half], real[half : 2 * half], root.child("halves"))
    return SlicedTest(found.value, found.p_value, control.value, control.p_value)


def _mass(own: FeatureArray, real: FeatureArray, root: Root) -> float | None:
    return pqmass(own, real, root) if enough(len(own), len(real)) else None


def _variety(samples: FeatureArray, real: FeatureArray, root: Root) -> tuple[Variety, ...]:
    """Compare samples with one half of the real maps as the other half is compared with it."""
    size = min(len(samples), len(real) // 2)
    if size <= NEIGHBOURS:
        return ()
    width = median_distance(row_distances(real, real))
    own, other = [], []
    rng = root.generator()
    for _ in range(SPLITS):
        chosen = samples[torch.from_numpy(rng.permutation(len(samples))[:size])]
        left, right = real[torch.from_numpy(rng.permutation(len(real))[: 2 * size])].split(size)
        own.append(_numbers(chosen, right, width))
        other.append(_numbers(left, right, width))
    found = []
    for name, (title, note) in VARIETY.items():
        values = [numbers[name] for numbers in other]
        low, middle, high = np.quantile(values, (0.05, 0.5, 0.95), method="weibull")
        value = float(np.median([numbers[name] for numbers in own]))
        found.append(Variety(name, title, value, float(middle), float(low), float(high), note))
    return tuple(found)


def _numbers(own: FeatureArray, real: FeatureArray, width: float) -> dict[str, float]:
    return {**asdict(coverage(own, real)), "vendi": vendi(own, width)}
