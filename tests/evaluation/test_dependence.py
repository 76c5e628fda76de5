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
    assert int((rows.diff() == 1).sum()) >= 23  # all but the ends of seven blocks at most
    assert set(dependence.apart(Root(0)).diff().tolist()) == {5}
    alone = Dependence(30, 1, 30.0)
    assert alone.apart(Root(0)).tolist() == list(range(30))
    assert Dependence.measure(torch.ones(40, 3), Root(0)).block == 1


def tiles(side: int, files: int = 1) -> np.ndarray:
    """Places of tiles of square mosaics, in a random order that hides who is whose neighbour."""
    grid = [(f, y, x) for f in range(files) for y in range(side) for x in range(side)]
    return np.random.default_rng(9).permutation(np.array(grid, dtype=float))


def smooth_over(places: np.ndarray, rng: np.random.Generator, reach: float = 1.5) -> torch.Tensor:
    """Rows of a Gaussian law with `corr = exp(-distance^2 / 2 reach^2)` within a file."""
    gap = places[:, None] - places[None]
    covariance = np.exp(-(gap[..., 1:] ** 2).sum(-1) / (2 * reach**2)) * (gap[..., 0] == 0)
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(places)))
    return torch.from_numpy(root @ rng.standard_normal((len(places), 6)))


def test_neighbours_in_two_dimensions_are_seen_where_places_are_known() -> None:
    places, rng = tiles(12), np.random.default_rng(5)
    features = smooth_over(places, rng)
    found = Dependence.measure(features, Root(0), places)
    # The control: their order in the file tells nothing.
    assert found.block > 1 and Dependence.measure(features, Root(0)).block == 1
    rows = found.apart(Root(1))
    gap = np.abs(places[rows, None] - places[None, rows])[..., 1:].max(-1)
    assert gap[np.triu_indices(len(rows), 1)].min() >= found.block
    # Of a mean over a wide field, n_eff is its area over 2 pi reach^2.
    assert 144 / (2 * np.pi * 1.5**2) * 0.5 < found.effective < 40

    def step(order: np.ndarray) -> float:
        return float(np.median(np.abs(np.diff(places[order], axis=0))[:, 1:].max(1)))

    assert step(found.shuffled(rng).numpy()) < 0.6 * step(np.arange(144))
    assert sorted(found.shuffled(rng).tolist()) == list(range(144))


def test_mosaics_are_independent_of_one_another() -> None:
    places, rng = tiles(4, files=12), np.random.default_rng(6)
    dependence = Dependence(192, 4, 12.0, places)
    rows = dependence.apart(Root(0))
    assert sorted(places[rows, 0].tolist()) == list(range(12))
    assert (
        Dependence.measure(torch.from_numpy(rng.standard_normal((192, 6))), Root(0), places).block
        == 1
    )


def test_tests_by_region_are_nominal_where_those_of_all_tiles_are_not() -> None:
    places, rng, trials = tiles(12), np.random.default_rng(7), 60
    by_region = every = 0
    for trial in range(trials):
        held, samples = smooth_over(places, rng), torch.from_numpy(rng.standard_normal((64, 6)))
        some = held[Dependence.measure(held, Root(trial), places).apart(Root(trial))]
        by_region += energy_test(samples, some, rng, 99).p_value <= 0.05
        every += energy_test(samples, held, rng, 99).p_value <= 0.05
    high = stats.binom(trials, 0.05).isf(1e-3)
    assert by_region <= high < every


def test_few_maps_of_two_splits_show_together_what_those_of_one_do_not() -> None:
    """Maps of the second split in random order are the control: they show nothing."""
    rng, trials = np.random.default_rng(8), 24
    both = hidden = 0
    for trial in range(trials):
        held, fit, root = chain(16, 0.5, rng), chain(16, 0.5, rng), Root(trial)
        mixed = fit[torch.from_numpy(rng.permutation(16))]
        both += Dependence.measure(held, root, beside=(fit, None)).block > 1
        hidden += Dependence.measure(held, root, beside=(mixed, None)).block > 1
    assert hidden < both >= stats.binom(trials, 0.9).ppf(1e-3)
