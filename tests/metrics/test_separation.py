"""Held-out AUC of two Gaussians against its closed form, and its null distribution.

Over `n` and `m` scores an AUC spreads by about `((1/n + 1/m) / 12)^1/2` (Hanley & McNeil 1982: less
than this away from one half); tolerances are five of these.
"""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ood_core.errors import TargetError
from ood_core.metrics.two_sample import auc, separation
from tests.strategies import randn


def sets(n: int, d: int, shift: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = randn(n, d, seed=seed), randn(n, d, seed=seed + 1)
    b[:, 0] += shift
    return a, b


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_auc_counts_pairs_and_halves_ties() -> None:
    assert auc(torch.tensor([2.0, 3.0]), torch.tensor([1.0, 2.0])) == (0.5 + 1 + 1 + 1) / 4
    assert auc(torch.tensor([0.0]), torch.tensor([1.0])) == 0.0
    assert auc(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])) == 0.5


@pytest.mark.parametrize("shift", [0.5, 1.0, 2.0])
def test_in_few_dimensions_it_is_the_best_possible(shift: float) -> None:
    n = 400
    found = separation(*sets(n, 2, shift, 10), rng(), permutations=19)
    assert found.auc == pytest.approx(norm.cdf(shift / math.sqrt(2)), abs=5 * math.sqrt(1 / n / 6))
    assert found.p_value == 1 / 20


@pytest.mark.parametrize(("d", "shift"), [(1000, 3.0), (4000, 6.0)])
def test_in_many_dimensions_the_direction_must_be_learned(d: int, shift: float) -> None:
    n = 60
    seen = n * 4 / 5  # rows that each fold learns from
    learned = shift**2 / math.sqrt(2 * (shift**2 + 2 * d / seen))
    found = separation(*sets(n, d, shift, 20), rng(), permutations=19)
    tolerance = 5 * math.sqrt(1 / n / 6)
    assert found.auc == pytest.approx(norm.cdf(learned), abs=tolerance)
    assert norm.cdf(shift / math.sqrt(2)) > norm.cdf(learned) + 0.03  # the known direction: better


def test_equal_laws_are_not_told_apart_though_training_rows_always_are() -> None:
    a, b = sets(30, 2000, 0.0, 30)
    found = separation(a, b, rng(), permutations=99)
    assert found.null_low <= found.auc <= found.null_high
    assert found.p_value > 0.05
    direction = b.mean(0) - a.mean(0)
    assert auc(b @ direction, a @ direction) == 1.0


def test_the_null_is_around_one_half_and_narrows_with_the_sets() -> None:
    few, many = (separation(*sets(n, 20, 1.0, 40), rng(), permutations=99) for n in (15, 150))
    for found in (few, many):
        assert found.null_low < 0.5 < found.null_high
    assert many.null_high - many.null_low < 0.6 * (few.null_high - few.null_low)


def test_it_turns_and_moves_with_the_rows_and_needs_two_of_each() -> None:
    a, b = sets(12, 30, 2.0, 50)
    turn = torch.linalg.qr(randn(30, 30, seed=51))[0]
    plain = separation(a, b, rng(), permutations=9)
    moved = separation(a @ turn + 5, b @ turn + 5, rng(), permutations=9)
    assert moved.auc == pytest.approx(plain.auc, abs=1e-9)
    with pytest.raises(TargetError, match="2 or more"):
        separation(a[:1], b, rng())
