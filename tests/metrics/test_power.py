"""Power of the energy test on real rows, beside that of whole simulated sets."""

import math

import pytest
import torch

from ood_core.errors import TargetError
from ood_core.metrics.discrepancy import detectable_difference, energy_distance, energy_test
from tests.oracles import fields


def seen(shift: float, n: int, features: int, trials: int) -> float:
    """Part of simulated pairs of normal sets in which the energy test sees a shift at 0.05."""
    rng, found = fields.rng(0), 0
    for _ in range(trials):
        rows = torch.from_numpy(rng.standard_normal((2 * n, features)))
        rows[n:, 0] += shift
        found += energy_test(rows[:n], rows[n:], rng, 79).p_value <= 0.05
    return found / trials


def test_real_rows_show_the_shift_that_simulated_sets_show() -> None:
    # It promises a power of 0.8; 60 trials know it to 0.05, and it rises by about 1 per shift.
    rows = torch.from_numpy(fields.rng(1).standard_normal((80, 4)))
    shift, distance = detectable_difference(rows, 40, 40, fields.rng(2))
    assert seen(0.7 * shift, 40, 4, 60) < 0.8 < seen(1.3 * shift, 40, 4, 60)
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
