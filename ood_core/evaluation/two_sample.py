"""Judges: do samples differ from held-out maps in statistics that no part of the method optimises?

Steering pulls scattering moments, powers of bands, mean, spread, skewness and pixel quantiles, so
these say little about its samples. What is measured here is not among its aims: three-point
statistics scale by scale, phases, boundaries and connectivity of excursion sets, peaks and minima,
and, where there are several channels, their coherence and common third moments.
It is not independent of them all the same: the sum of a bispectrum over all triangles is a
skewness. Every map is brought to its own mean and spread first where levels matter, and the area
over a level is left out, since pixel quantiles fix it.

Rows of features are whitened by the fit targets, which belong to neither side. The energy test of
samples against held-out maps asks each family; p-values are adjusted for their number (Holm). The
p-values take maps as independent: overlapping cut-outs make them too small. The same test between
fit and held-out targets says whether the two splits are exchangeable at all: where they are not,
samples that were true to the first would differ from the second.
"""

from dataclasses import asdict, replace
from math import comb, inf

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ood_core.evaluation.features import Rows
from ood_core.evaluation.results import LEVEL, ClassifierTest, FamilyTest, Judgement, Variety
from ood_core.metrics.coverage import NEIGHBOURS, coverage, vendi
from ood_core.metrics.discrepancy import (
    PERMUTATIONS,
    Discrepancy,
    adjusted,
    energy_distance,
    energy_test,
    median_distance,
    row_distances,
)
from ood_core.metrics.distances import Whitening
from ood_core.metrics.power import detectable_difference
from ood_core.metrics.two_sample import classifier_test
from ood_core.numerics.random import Stream, generator

MAX_ROWS = 512  # of a set; which ones is drawn
FIRST_INDEX = 1000  # of random streams, past those of `validate`
SPLITS = 20  # of held-out maps, for variety
MIN_CLASSIFIED = 4  # of a half: two to train on and two to ask

UNSTEERED = ("bispectrum", "phases", "minkowski", "peaks", "channels")  # where maps have them
TITLES = {
    "bispectrum": "the bispectrum",
    "phases": "phase coherence",
    "minkowski": "boundaries and connectivity (Minkowski)",
    "peaks": "peaks and minima",
    "scattering": "scattering moments",
    "channels": "what channels have in common",
}
VARIETY = {
    "precision": ("precision", "part of samples among the real maps"),
    "recall": ("recall", "part of real maps among the samples"),
    "density": ("density", "how deep among the real maps samples lie; 1 for equal laws"),
    "coverage": ("coverage", "part of real maps with a sample in their neighbourhood"),
    "vendi": ("distinct maps (Vendi)", "effective number of different maps in a set of equal size"),
}

Features = Float[Tensor, "_ _"]


def judge(
    samples: Rows, fit: Rows, held_out: Rows, steered: tuple[Features, Features], root: int
) -> Judgement:
    """Test samples against held-out maps; `steered` has whitened scattering moments of both.

    Sets are rows of `ood_core.evaluation.features`: those of 2 samples, 2 fit and 4 held-out maps
    at least.
    """
    sets = samples, held_out, fit
    names = [name for name in UNSTEERED if name in samples]
    order, other, few = (_thinned(len(s[names[0]]), root, i) for i, s in enumerate(sets))
    families = [
        (name, (samples[name][order], held_out[name][other], fit[name][few])) for name in names
    ]
    tests = [_test(name, *_whitened(*rows), len(families), root) for name, rows in families]
    raised = adjusted([test.p_value for test in tests])
    control = [_exchangeable(name, rows[2], rows[1], root) for name, rows in families]
    raised_control = adjusted([found.p_value for found in control])
    unsteered = [
        replace(test, adjusted=p, targets_distance=found.value, targets_adjusted=q)
        for test, p, found, q in zip(tests, raised, control, raised_control, strict=True)
    ]
    reference = _test("scattering", steered[0][order], steered[1][other], 1, root)
    joined = (torch.cat(rows, dim=1) for rows in zip(*(rows for _, rows in families), strict=True))
    rows, real = _whitened(*joined)
    return Judgement(
        samples=len(order),
        held_out=len(other),
        fit=len(few),
        families=(*unsteered, replace(reference, steered=True)),
        least_p=min(len(families) * least_p(len(order), len(other)), 1.0),
        classifier=_classified(rows, real),
        variety=_variety(rows, real, root),
    )


def least_p(n: int, m: int) -> float:
    """Return the least p-value that the energy test of `n` and `m` rows can have."""
    divisions = comb(n + m, n)
    if divisions > PERMUTATIONS:
        return 1 / (1 + PERMUTATIONS)
    return (2 if n == m else 1) / divisions  # equal sets may change places


def _thinned(count: int, root: int, place: int) -> Int[Tensor, " rows"]:
    rng = generator(root, FIRST_INDEX + place, stream=Stream.RESAMPLE)
    return torch.from_numpy(rng.permutation(count)[:MAX_ROWS])


def _whitened(rows: Features, real: Features, fit: Features) -> tuple[Features, Features]:
    whitening = Whitening.fit(fit)
    return whitening(rows), whitening(real)


def _exchangeable(name: str, fit: Features, held_out: Features, root: int) -> Discrepancy:
    """Test fit targets against held-out ones: if they differ, samples cannot but differ.

    Both are whitened by both together: by one of them alone, they would not be exchangeable.
    """
    rng = generator(root, FIRST_INDEX + 30 + list(TITLES).index(name), stream=Stream.RESAMPLE)
    whitening = Whitening.fit(torch.cat([fit, held_out]))
    rows = whitening(fit), whitening(held_out)
    return Discrepancy(energy_distance(*rows), energy_test(*rows, rng).p_value)


def _test(name: str, rows: Features, real: Features, families: int, root: int) -> FamilyTest:
    """Test rows against real ones, halves of the real ones for control, and what would be seen."""
    rng = generator(root, FIRST_INDEX + 10 + list(TITLES).index(name), stream=Stream.RESAMPLE)
    half = len(real) // 2
    halves = real[:half], real[half : 2 * half]
    level = LEVEL / families  # what Holm asks of the smallest p
    visible = inf, inf
    if least_p(len(rows), len(real)) <= level:
        visible = detectable_difference(real, len(rows), len(real), rng, level=level)
    return FamilyTest(
        name=name,
        title=TITLES[name],
        steered=False,
        features=rows.shape[1],
        distance=energy_distance(rows, real),
        p_value=energy_test(rows, real, rng).p_value,
        adjusted=None,
        real_distance=energy_distance(*halves),
        real_p=energy_test(*halves, rng).p_value,
        visible_shift=visible[0],
        visible_distance=visible[1],
    )


def _classified(rows: Features, real: Features) -> ClassifierTest | None:
    half = len(real) // 2
    if min(len(rows), half) < MIN_CLASSIFIED:
        return None
    found, control = classifier_test(rows, real), classifier_test(real[:half], real[half:])
    return ClassifierTest(found.value, found.p_value, control.value, control.p_value)


def _variety(rows: Features, real: Features, root: int) -> tuple[Variety, ...]:
    """Compare samples with one half of the real rows as the other half is compared with it."""
    size = min(len(rows), len(real) // 2)
    if size <= NEIGHBOURS:
        return ()
    width = median_distance(row_distances(real, real))
    own, other = [], []
    rng = generator(root, FIRST_INDEX + 20, stream=Stream.RESAMPLE)
    for _ in range(SPLITS):
        chosen = rows[torch.from_numpy(rng.permutation(len(rows))[:size])]
        left, right = real[torch.from_numpy(rng.permutation(len(real))[: 2 * size])].split(size)
        own.append(_numbers(chosen, right, width))
        other.append(_numbers(left, right, width))
    found = []
    for name, (title, note) in VARIETY.items():
        low, middle, high = np.quantile([numbers[name] for numbers in other], (0.05, 0.5, 0.95))
        value = float(np.median([numbers[name] for numbers in own]))
        found.append(Variety(name, title, value, float(middle), float(low), float(high), note))
    return tuple(found)


def _numbers(rows: Features, real: Features, width: float) -> dict[str, float]:
    return {**asdict(coverage(rows, real)), "vendi": vendi(rows, width)}
