"""Two-sample tests: distances against sums, p-values against all divisions, rates by simulation."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

from ood_core.errors import TargetError
from ood_core.metrics.bispectrum import bispectrum
from ood_core.metrics.discrepancy import adjusted, energy_test
from ood_core.metrics.morphology import minkowski
from ood_core.metrics.phases import phase_coherence
from ood_core.metrics.spectra import power_spectrum
from ood_core.metrics.two_sample import classifier_test
from tests.oracles import fields

SIDE = 16
EDGES = (1.0, 2.5, 4.5)

Rows = torch.Tensor


def rows(n: int, f: int = 3, seed: int = 0) -> Rows:
    return torch.from_numpy(fields.rng(seed).standard_normal((n, f)))


def lumpy(n: int, seed: int) -> torch.Tensor:
    """Skewed maps: blurred exponential pixels, periodic."""
    pixels = fields.rng(seed).exponential(size=(n, 1, SIDE, SIDE))
    return torch.from_numpy(gaussian_filter(pixels, (0, 0, 0.7, 0.7), mode="wrap"))


def scrambled(n: int, seed: int) -> torch.Tensor:
    """Maps with the power of lumpy ones and independent phases."""
    return torch.from_numpy(fields.scrambled(lumpy(n, seed).numpy(), seed + 1))


def standardised(maps: torch.Tensor) -> torch.Tensor:
    """Maps in units of the standard deviation of all their pixels."""
    return (maps - maps.mean()) / maps.std()


def log_power(maps: torch.Tensor) -> Rows:
    return power_spectrum(maps)[1][:, 0].log()


def shape(maps: torch.Tensor) -> Rows:
    levels = torch.tensor([-1.0, 0.0, 1.0, 2.0])
    return minkowski(maps, levels).flatten(1)


def threes(maps: torch.Tensor) -> Rows:
    found = bispectrum(maps, EDGES)
    return (found.value / found.noise)[:, 0]


def phases(maps: torch.Tensor) -> Rows:
    found = phase_coherence(maps, EDGES)
    return (found.value / found.noise)[:, 0]


def inside(hits: int, trials: int, rate: float) -> bool:
    """Whether a count lies where a binomial law puts all but 5.7e-7 of its counts (5 sigma)."""
    low, high = stats.binom.interval(1 - 5.7e-7, trials, rate)
    return bool(low <= hits <= high)


def test_energy_distance_is_the_one_of_scipy_on_the_line() -> None:
    a, b = rows(9, 1), 0.5 + 2 * rows(7, 1, seed=1)
    expected = stats.energy_distance(a[:, 0].numpy(), b[:, 0].numpy()) ** 2
    assert energy_test(a, b, fields.rng(0), 9).value == pytest.approx(expected)


def test_the_distance_is_its_double_sum() -> None:
    a, b = rows(6), 1 + rows(5, seed=1)

    def mean(f: Callable[[Rows, Rows], float], first: Rows, second: Rows) -> float:
        return float(np.mean([f(x, y) for x in first for y in second]))

    def apart(x: Rows, y: Rows) -> float:
        return float((x - y).norm())

    energy = 2 * mean(apart, a, b) - mean(apart, a, a) - mean(apart, b, b)
    assert energy_test(a, b, fields.rng(0), 9).value == pytest.approx(energy)


def test_small_sets_are_divided_in_every_way() -> None:
    a, b = rows(4), 1 + rows(3, seed=1)
    pooled = torch.cat([a, b])
    found = energy_test(a, b, fields.rng(0))
    values = []
    for first in itertools.combinations(range(7), 4):
        rest = [i for i in range(7) if i not in first]
        values.append(energy_test(pooled[list(first)], pooled[rest], fields.rng(0)).value)
    as_large = sum(value >= found.value - 1e-12 for value in values)
    assert len(values) == 35
    assert found.p_value == pytest.approx(as_large / 35)


def test_the_least_p_value_is_one_in_the_exchanges_plus_one() -> None:
    found = energy_test(rows(20), 9 + rows(20, seed=1), fields.rng(0), 99)
    assert found.p_value == pytest.approx(1 / 100)
    assert energy_test(rows(8), rows(8), fields.rng(0), 99).p_value == 1
    assert energy_test(rows(8), rows(8).flip(0), fields.rng(0), 99).value == pytest.approx(
        0, abs=1e-12
    )


def test_the_same_seed_gives_the_same_answer() -> None:
    a, b = rows(15), 0.3 + rows(12, seed=1)
    assert energy_test(a, b, fields.rng(3)) == energy_test(a, b, fields.rng(3))
    assert energy_test(b, a, fields.rng(3)).value == pytest.approx(
        energy_test(a, b, fields.rng(3)).value
    )


@pytest.mark.parametrize("statistic", [shape, threes])
def test_equal_laws_are_rejected_at_the_nominal_rate(
    statistic: Callable[[torch.Tensor], Rows],
) -> None:
    # 39 exchanges: p is uniform on 1/40 ... 1, so that P(p <= 0.05) = 0.05 and P(p <= 0.5) = 0.5.
    trials, n, m = 300, 8, 10
    features = statistic(lumpy(trials * (n + m), 7)).unflatten(0, (trials, n + m))
    p = [energy_test(f[:n], f[n:], fields.rng(i), 39).p_value for i, f in enumerate(features)]
    for level in (0.05, 0.5):
        assert inside(sum(value <= level + 1e-9 for value in p), trials, level)


@pytest.mark.parametrize("statistic", [shape, threes, phases])
def test_scrambled_phases_are_caught_though_the_power_is_the_same(
    statistic: Callable[[torch.Tensor], Rows],
) -> None:
    trials, n = 20, 40
    real = lumpy(trials * n, 11)
    fake = scrambled(trials * n, 13)
    real, fake = standardised(real), standardised(fake)

    def rejected(measure: Callable[[torch.Tensor], Rows]) -> int:
        pairs = zip(measure(real).split(n), measure(fake).split(n), strict=True)
        p = [energy_test(a, b, fields.rng(i), 39).p_value for i, (a, b) in enumerate(pairs)]
        return sum(value <= 0.05 + 1e-9 for value in p)

    assert inside(rejected(log_power), trials, 0.05)
    # Blind, the test would reject 1 in 20, and 15 of 20 with a probability of 2e-16.
    assert rejected(statistic) >= 15


def test_the_classifier_test_is_at_most_at_its_level_and_has_power() -> None:
    trials, n = 30, 16
    low = high = seen = 0
    for i in range(trials):
        # More features than rows: on the rows that it was trained on, it would be right always.
        a, b = rows(n, 20, seed=2 * i), rows(n + 2, 20, seed=2 * i + 1)
        p = classifier_test(a, b).p_value
        low, high = low + (p <= 0.05), high + (p <= 0.5)
        seen += classifier_test(a, b + 2).p_value <= 0.05
    # Fisher's test is below its level, since tables are few: only the upper ends hold.
    assert low <= stats.binom.isf(2.9e-7, trials, 0.05)
    assert stats.binom.ppf(2.9e-7, trials, 0.1) <= high <= stats.binom.isf(2.9e-7, trials, 0.5)
    assert seen > 0.8 * trials


def test_the_classifier_test_is_fishers_on_the_latter_halves() -> None:
    # One feature that always tells the former halves apart, and 7 of 10 and 8 of 10 of the latter.
    sign = torch.tensor([1.0] * 10 + [1.0] * 7 + [-1.0] * 3)
    other = torch.tensor([-1.0] * 10 + [-1.0] * 8 + [1.0] * 2)
    found = classifier_test(sign[:, None], other[:, None])
    assert found.value == pytest.approx(0.75)
    # P(7 or more right of the first set, given the margins 9 and 11 of 20).
    tail = stats.hypergeom.sf(6, 20, 10, 9)
    assert found.p_value == pytest.approx(tail)


def test_holm_and_benjamini_hochberg_by_hand() -> None:
    p = [0.01, 0.04, 0.03, 0.005]
    assert adjusted(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert adjusted(p, "bh") == pytest.approx([0.02, 0.04, 0.04, 0.02])
    assert adjusted([0.6, 0.7]) == pytest.approx([1, 1])
    assert adjusted([]) == []


def test_holm_keeps_the_chance_of_any_false_alarm() -> None:
    # 2,000 families of 5 true hypotheses: at least one is rejected at 0.1 with 1 - (1 - 0.02)^5.
    p = fields.rng(0).random((2000, 5))
    hits = sum(min(adjusted(list(family))) <= 0.1 for family in p)
    assert inside(hits, 2000, 1 - 0.98**5)
    assert not inside(int((p.min(1) <= 0.1).sum()), 2000, 1 - 0.98**5)


def test_single_rows_are_refused() -> None:
    with pytest.raises(TargetError):
        energy_test(rows(1), rows(5), fields.rng(0))
    with pytest.raises(TargetError):
        classifier_test(rows(3), rows(5))
