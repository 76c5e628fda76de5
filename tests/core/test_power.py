"""Power: tabulated values of the t-test, nominal rate without a shift, and the energy test's."""

import math

import pytest
import torch
from scipy import stats

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import energy_distance
from ood_core.metrics.power import (
    detectable_difference,
    detectable_energy_shift,
    detectable_mean_shift,
    energy_power,
    mean_power,
)
from tests.oracles import fields


@pytest.mark.parametrize(
    ("shift", "n", "power"), [(0.5, 64, 0.8015), (0.8, 26, 0.8075), (1, 17, 0.807)]
)
def test_the_t_test_has_its_tabulated_power(shift: float, n: int, power: float) -> None:
    # Cohen 1988, table 2.4.1 (n for 80 % power), with the digits of the noncentral t.
    assert mean_power(shift, n, n) == pytest.approx(power, abs=5e-4)
    assert mean_power(shift, n - 1, n - 1) < 0.8


def test_the_t_test_has_its_simulated_power() -> None:
    trials, n, m, shift = 4000, 9, 14, 0.9
    rows = fields.rng(0).standard_normal((trials, n + m))
    p = stats.ttest_ind(rows[:, :n], rows[:, n:] + shift, axis=1).pvalue
    expected = mean_power(shift, n, m)
    error = math.sqrt(expected * (1 - expected) / trials)
    assert (p <= 0.05).mean() == pytest.approx(expected, abs=5 * error)


def test_the_detectable_shift_has_the_power_asked_for() -> None:
    for n, m in ((4, 4), (30, 10), (64, 1000)):
        assert mean_power(detectable_mean_shift(n, m), n, m) == pytest.approx(0.8, abs=1e-4)
    normal = (stats.norm.isf(0.025) + stats.norm.isf(0.2)) * math.sqrt(2 / 5000)
    assert detectable_mean_shift(5000, 5000) == pytest.approx(normal, rel=1e-3)


def test_the_energy_test_has_its_level_without_a_shift() -> None:
    trials = 200
    low, high = stats.binom.interval(1 - 5.7e-7, trials, 0.1)
    found = energy_power(0.0, 10, 12, fields.rng(0), trials=trials, level=0.1)
    assert low <= found * trials <= high
    assert energy_power(3.0, 10, 12, fields.rng(0), trials=50) > 0.95


def test_the_energy_test_sees_little_less_than_the_best_test_of_a_mean() -> None:
    # In one dimension it comes close to the t-test, which nothing beats; features that do not move
    # dilute it.
    best = detectable_mean_shift(16, 16)
    one = detectable_energy_shift(16, 16, root=0, trials=40, steps=3)
    many = detectable_energy_shift(16, 16, root=0, features=16, trials=40, steps=3)
    # Power of 40 trials is known to 0.06, and rises by about 1 per unit of shift / best.
    assert 0.75 * best < one < 1.5 * best
    assert many > 1.3 * one
    assert one == detectable_energy_shift(16, 16, root=0, trials=40, steps=3)


def test_real_rows_show_the_shift_that_simulated_sets_show() -> None:
    # Whole sets are drawn here, and 80 halves of one set there; 60 trials know the power to 0.05,
    # and the shift to about a tenth.
    rows = torch.from_numpy(fields.rng(1).standard_normal((80, 4)))
    shift, distance = detectable_difference(rows, 40, 40, fields.rng(2))
    whole = detectable_energy_shift(40, 40, root=0, features=4, trials=60, steps=4)
    assert shift == pytest.approx(whole, rel=0.3)
    moved = rows.clone()
    moved[:40, 0] += shift  # one split of many: its distance is known to about its own size
    apart = energy_distance(moved[:40], moved[40:]) - energy_distance(rows[:40], rows[40:])
    assert 0.3 * apart < distance < 3 * apart


def test_the_detectable_difference_falls_with_the_size_and_ignores_units() -> None:
    rows = torch.from_numpy(fields.rng(3).standard_normal((40, 3)))
    few, many = (detectable_difference(rows, n, n, fields.rng(4)) for n in (20, 80))
    assert many[0] == pytest.approx(few[0] / 2) and many[1] == pytest.approx(few[1] / 4)
    large = detectable_difference(100 * rows, 20, 20, fields.rng(4))
    assert large[0] == pytest.approx(few[0]) and large[1] == pytest.approx(100 * few[1])
    assert detectable_difference(torch.ones(8, 2), 4, 4, fields.rng(0)) == (math.inf, math.inf)


def test_the_energy_distance_of_equal_laws_is_zero_on_average() -> None:
    rows = torch.from_numpy(fields.rng(5).standard_normal((400, 12, 3)))
    found = torch.tensor([energy_distance(x[:5], x[5:]) for x in rows], dtype=torch.float64)
    assert abs(float(found.mean())) < 5 * float(found.std()) / 20
    assert float(found.min()) < 0 < float(found.max())


def test_single_rows_are_refused() -> None:
    with pytest.raises(TargetError):
        detectable_difference(torch.zeros(3, 2), 4, 4, fields.rng(0))
    with pytest.raises(TargetError):
        energy_distance(torch.zeros(1, 2), torch.zeros(4, 2))
    with pytest.raises(TargetError):
        mean_power(1.0, 1, 5)
