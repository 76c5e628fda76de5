"""Precision, recall, density, coverage: equal, disjoint, narrow, copied sets; distinct rows."""

import math

import numpy as np
import pytest
import torch

from ood_core.errors import TargetError
from ood_core.metrics.coverage import Coverage, coverage, vendi
from tests.oracles import fields


def rows(n: int, f: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(fields.rng(seed).standard_normal((n, f)))


@pytest.mark.parametrize(("m", "n", "k"), [(30, 40, 3), (60, 20, 5)])
def test_equal_laws_have_density_one_and_the_coverage_of_naeem(m: int, n: int, k: int) -> None:
    trials = 200
    draws = rows(trials * (m + n)).unflatten(0, (trials, m + n))
    found = [coverage(d[:m], d[m:], k) for d in draws]
    missed = math.prod((n - j) / (n + m - j) for j in range(1, k + 1))
    for name, expected in (("density", 1.0), ("coverage", 1 - missed)):
        values = np.array([getattr(one, name) for one in found])
        error = values.std(ddof=1) / math.sqrt(trials)
        assert abs(values.mean() - expected) < 5 * error
        assert 5 * error < 0.1


def test_precision_and_recall_change_places_with_the_sets() -> None:
    a, b = rows(30), 0.5 + rows(25, seed=1)
    forth, back = coverage(a, b), coverage(b, a)
    assert (forth.precision, forth.recall) == (back.recall, back.precision)


def test_disjoint_laws_share_nothing() -> None:
    assert coverage(rows(30), 100 + rows(30, seed=1)) == Coverage(0, 0, 0, 0)


def test_a_set_against_itself_is_complete() -> None:
    found = coverage(rows(30), rows(30).flip(0), k=4)
    # Each ball holds its own row and four neighbours.
    assert found == Coverage(1, 1, (4 + 1) / 4, 1)


def test_a_dropped_mode_costs_recall_and_coverage_but_not_precision() -> None:
    modes = torch.where(torch.arange(100) % 2 == 0, 0.0, 50.0)[:, None]
    real, whole = rows(100) + modes, rows(100, seed=1) + modes
    half = rows(100, seed=2)  # every sample in the first of two modes
    dropped, kept = coverage(half, real), coverage(whole, real)
    assert dropped.precision > 0.9 and dropped.recall <= 0.5 and dropped.coverage <= 0.5
    assert kept.recall > 0.9 and kept.coverage > 0.9


def test_an_outlier_misleads_recall_but_not_coverage() -> None:
    # Samples spread thinly over all of space have balls that hold every real row.
    real, wild = rows(60), 20 * rows(60, seed=1)
    found = coverage(wild, real)
    assert found.recall > 0.9
    assert found.coverage < 0.5 and found.density < 0.5


def test_copies_of_one_row_are_precise_and_cover_little() -> None:
    real = rows(60)
    found = coverage(real[:1].repeat(60, 1), real, k=3)
    assert found.precision == 1
    assert found.coverage < 0.2 and found.recall == pytest.approx(1 / 60)


def test_vendi_counts_distinct_rows() -> None:
    far = 100.0 * torch.eye(12).double()
    assert vendi(far, 1.0) == pytest.approx(12)
    assert vendi(far.repeat(3, 1), 1.0) == pytest.approx(12)
    assert vendi(far[:1].repeat(7, 1), 1.0) == pytest.approx(1)
    assert vendi(far, 1e6) == pytest.approx(1, abs=1e-4)


def test_vendi_of_uneven_clusters_is_their_entropy() -> None:
    far = 100.0 * torch.eye(3).double()
    uneven = far.repeat_interleave(torch.tensor([6, 3, 1]), dim=0)
    share = np.array([0.6, 0.3, 0.1])
    assert vendi(uneven, 1.0) == pytest.approx(math.exp(-(share * np.log(share)).sum()))


def test_vendi_of_two_rows_is_known() -> None:
    # Eigenvalues (1 + s) / 2 and (1 - s) / 2 with s = exp(-d^2 / (2 w^2)).
    share = np.array([1 + math.exp(-(3**2) / 8), 1 - math.exp(-(3**2) / 8)]) / 2
    expected = math.exp(-(share * np.log(share)).sum())
    assert vendi(torch.tensor([[0.0], [3.0]]), 2.0) == pytest.approx(expected)


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(TargetError):
        coverage(rows(5), rows(9), k=5)
    with pytest.raises(TargetError):
        vendi(rows(0), 1.0)
