"""Dependent maps: seen, worth fewer, and tested at the nominal rate; independent ones untouched."""

import numpy as np
import pytest
import torch
from scipy import stats

from ood_core.evaluation.dependence import LEVEL, Dependence
from ood_core.metrics.discrepancy import energy_test
from ood_core.metrics.two_sample import classifier_test
from ood_core.numerics.random import Root


def chain(m: int, keep: float, rng: np.random.Generator, features: int = 6) -> torch.Tensor:
    """Rows of a stationary autoregression: `corr(i, i + l) = keep^l`, N(0, 1) each."""
    rows = np.empty((m, features))
    rows[0] = rng.standard_normal(features)
    for i in range(1, m):
        rows[i] = keep * rows[i - 1] + (1 - keep**2) ** 0.5 * rng.standard_normal(features)
    return torch.from_numpy(rows)


def test_independent_maps_are_taken_for_dependent_as_rarely_as_stated() -> None:
    rng, trials = np.random.default_rng(0), 100
    found = [Dependence.measure(chain(64, 0, rng), Root(i)).block > 1 for i in range(trials)]
    assert sum(found) <= stats.binom(trials, LEVEL).isf(1e-3)


@pytest.mark.parametrize("keep", [0.5, 0.8])
def test_the_effective_number_is_that_of_the_closed_form(keep: float) -> None:
    rng, m = np.random.default_rng(1), 320
    found = [Dependence.measure(chain(m, keep, rng, 30), Root(i)) for i in range(8)]
    assert all(d.block > 1 for d in found)
    expected = m * (1 - keep) / (1 + keep)  # of a mean, for long chains
    assert np.median([d.effective for d in found]) == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize("m", [64, 160])
def test_tests_of_maps_a_block_apart_are_nominal_and_of_all_maps_are_not(m: int) -> None:
    rng, trials = np.random.default_rng(2), 60
    apart, every, classified = 0, 0, 0
    for trial in range(trials):
        held, samples = chain(m, 0.7, rng), torch.from_numpy(rng.standard_normal((64, 6)))
        dependence = Dependence.measure(held, Root(trial))
        some = held[dependence.apart(Root(trial))]
        apart += energy_test(samples, some, rng, 99).p_value <= 0.05
        every += energy_test(samples, held, rng, 99).p_value <= 0.05
        order = torch.from_numpy(rng.permutation(len(some)))
        classified += classifier_test(samples, some[order]).p_value <= 0.05
    high = stats.binom(trials, 0.05).isf(1e-3)
    assert apart <= high and classified <= high and every > high


@pytest.mark.parametrize(("n", "m"), [(8, 16), (64, 64), (256, 16)])
def test_tests_of_independent_maps_are_nominal_at_every_size(n: int, m: int) -> None:
    rng, trials = np.random.default_rng(3), 80
    energy = classified = 0
    for trial in range(trials):
        held, samples = chain(m, 0, rng), torch.from_numpy(rng.standard_normal((n, 6)))
        some = held[Dependence.measure(held, Root(trial)).apart(Root(trial))]
        energy += energy_test(samples, some, rng, 99).p_value <= 0.05
        classified += classifier_test(samples, some).p_value <= 0.05
    law = stats.binom(trials, 0.05)
    assert law.ppf(1e-3) <= energy <= law.isf(1e-3)
    assert classified <= law.isf(1e-3)  # Fisher's test is conservative


def test_blocks_keep_neighbours_together_and_every_map_once() -> None:
    dependence, rng = Dependence(30, 5, 6.0), np.random.default_rng(0)
    rows = dependence.shuffled(rng)
    assert sorted(rows.tolist()) == list(range(30))
    assert int(((rows.diff() % 30) == 1).sum()) >= 24  # all but the ends of six blocks
    drawn = dependence.drawn(23, rng)
    assert len(drawn) == 23 and int(((drawn.diff() % 30) == 1).sum()) >= 18
    assert dependence.apart(Root(0)).diff().tolist() == [5] * 5
    alone = Dependence(30, 1, 30.0)
    assert alone.apart(Root(0)).tolist() == list(range(30))
    assert Dependence.measure(torch.ones(40, 3), Root(0)).block == 1
