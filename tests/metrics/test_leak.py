"""Leak: samples of the base's law are seen, samples of the targets' law are not."""

import math

import pytest
import torch
from scipy import stats

from ood_core.errors import TargetError
from ood_core.metrics.leak import in_domain, leak
from tests.oracles import fields

AWAY = 6.0


def rows(n: int, seed: int, shift: float = 0.0) -> torch.Tensor:
    return shift + torch.from_numpy(fields.rng(seed).standard_normal((n, 4)))


def test_samples_of_either_domain_are_told_apart() -> None:
    targets, base, held_out = rows(40, 0), rows(40, 1, AWAY), rows(60, 2)
    faithful = leak(rows(50, 3), held_out, targets, base)
    pulled = leak(rows(50, 4, AWAY), held_out, targets, base)
    assert (faithful.samples, faithful.held_out, faithful.p_value) == (0, 0, 1)
    assert (pulled.samples, pulled.held_out) == (1, 0)
    # All 50 leaked of 110 rows are samples: one division of 110 over 50.
    assert pulled.p_value == pytest.approx(1 / math.comb(110, 50))


def test_a_part_that_leaks_is_measured() -> None:
    mixed = torch.cat([rows(35, 3), rows(15, 4, AWAY)])
    assert leak(mixed, rows(60, 2), rows(40, 0), rows(40, 1, AWAY)).samples == 15 / 50


def test_overlapping_domains_leak_alike_at_the_nominal_rate() -> None:
    # Targets and base have one law: a half leaks on either side, and that says nothing.
    trials, alarms, shares = 300, 0, []
    for i in range(trials):
        d = rows(100, i)
        found = leak(d[:30], d[30:60], d[60:80], d[80:])
        alarms += found.p_value <= 0.05
        shares.append(found.samples)
    assert alarms <= stats.binom.isf(2.9e-7, trials, 0.05)
    mean = torch.tensor(shares).double()
    assert abs(float(mean.mean()) - 0.5) < 5 * float(mean.std()) / math.sqrt(trials)


def test_a_larger_reference_set_has_no_advantage() -> None:
    # Twenty times as many base rows of the same law would be nearer for 95 % of rows.
    d = rows(1000, 0)
    found = leak(d[:200], d[200:400], d[400:428], d[428:988])
    assert found.samples < 0.75
    assert in_domain(d[:200], d[400:428], d[428:988]).double().mean() > 0.85


def test_empty_sets_are_refused() -> None:
    with pytest.raises(TargetError, match="base"):
        leak(rows(3, 0), rows(3, 1), rows(3, 2), rows(0, 3))
