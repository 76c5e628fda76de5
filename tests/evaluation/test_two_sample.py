"""Two-sample tests: nominal for equal distributions; faults that steering misses are rejected."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy import stats

from ood_core.evaluation import two_sample
from ood_core.evaluation.dependence import Dependence
from ood_core.evaluation.features import FAMILIES, Family
from ood_core.evaluation.results import CopySearch, TwoSampleTests
from ood_core.evaluation.summary import summarize
from ood_core.evaluation.two_sample import attainable_p, network_test, two_sample_tests
from ood_core.numerics.random import Root
from tests.oracles import fields

SIDE = 16
NAMES = ["bispectrum", "phases", "minkowski", "peaks", "detail", "scattering"]


def lognormal(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(
        np.exp(fields.gaussian(n, SIDE, lambda k: 9 * np.exp(-((2 * k) ** 2)), seed))
    )


def two_kinds(n: int, seed: int) -> torch.Tensor:
    maps = lognormal(n, seed)
    maps[::2] *= -1
    return maps


def steered(n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.from_numpy(fields.rng(9).standard_normal((n + m, 3)))
    return rows[:n], rows[n:]


def compared(
    samples: torch.Tensor, fit: torch.Tensor, held_out: torch.Tensor, root: int = 0
) -> TwoSampleTests:
    own, first, other = (
        {name: family(maps) for name, family in FAMILIES.items() if family.applies_to(fit)}
        for maps in (samples, fit, held_out)
    )
    whitened = steered(len(samples), len(held_out))
    return two_sample_tests(own, first, other, whitened, Root(root))


def of_samples(samples: torch.Tensor, held_out: torch.Tensor, root: int = 0) -> TwoSampleTests:
    return compared(samples, lognormal(40, 1), held_out, root)


def rejected(found: TwoSampleTests) -> set[str]:
    return {test.name for test in found.families if test.rejected}


def test_equal_distributions_are_rejected_at_the_nominal_rate() -> None:
    # Adjusted at 0.05 over four families; more than the bound of a binomial law would be a fault.
    trials, seen, targets, control = 20, 0, 0, []
    for trial in range(trials):
        found = of_samples(lognormal(16, 100 + trial), lognormal(16, 500 + trial), trial)
        seen += bool(rejected(found))
        targets += any(test.targets_differ for test in found.families)
        control += [test.real_p for test in found.families]
    # Fit targets are the same forty in every trial, so that their control is one draw, repeated.
    assert max(seen, targets) <= stats.binom.isf(1e-4, trials, 0.05)
    assert 0.3 < np.mean(control) < 0.75  # of exact tests: about one half


def test_a_network_is_shown_the_samples_whose_numbers_it_names() -> None:
    """Samples 0 to 9 are noise in the right half, so the network is surest of some of these."""
    samples, held_out = lognormal(80, 5), lognormal(70, 6)
    noise = torch.from_numpy(np.random.default_rng(1).normal(size=(10, 1, 16, 8))).float()
    samples[:10, :, :, 8:] = 2 * noise
    numbers, root = list(range(100, 260, 2)), Root.of("network")
    asked: list[int] = []

    def read(some: Sequence[int]) -> torch.Tensor:
        asked.extend(some)
        return samples[[numbers.index(number) for number in some]]

    apart = Dependence(70, 1, 70.0)
    found = network_test(read, numbers, held_out, (), root, apart)
    assert found is not None and (found.samples, found.held_out) == (80, 70)
    assert asked == numbers  # each once, in rising order
    assert {tell.sample for tell in found.tells} <= set(numbers[:10])
    for tell in found.tells:
        left, right = tell.where[:, :1].mean(), tell.where[:, -2:].mean()
        assert right > left and tell.logit > 0
    few = network_test(read, numbers, held_out[:20], (), root, Dependence(20, 1, 20.0))
    assert few is None


def test_scrambled_phases_are_told_apart_by_every_family() -> None:
    samples = torch.from_numpy(fields.scrambled(lognormal(60, 2).numpy(), 3))
    found = of_samples(samples, lognormal(60, 4))
    assert rejected(found) == {"bispectrum", "phases", "minkowski", "peaks", "detail"}
    assert [test.name for test in found.families] == NAMES
    assert found.classifier is not None and found.classifier.p_value < 1e-4
    assert found.classifier.accuracy > 0.8 and found.classifier.real_p > 1e-3
    assert found.mass_p is not None and found.mass_p < 1e-3
    assert found.sliced is not None and found.sliced.p_value == 1 / 500
    assert found.sliced.distance > found.sliced.real_distance and found.sliced.real_p > 1e-3
    for test in found.families[:5]:
        assert test.distance > test.detectable_distance > 0  # what is rejected was to be seen
        assert test.adjusted == pytest.approx(0.005)
    sentence = summarize({}, CopySearch(), found)
    assert "differ from held-out maps in the bispectrum, phase coherence" in sentence.lower()


def test_a_dropped_kind_is_told_apart() -> None:
    # Real maps are bright blobs or dark ones; samples are bright alone.
    found = compared(lognormal(60, 6), two_kinds(40, 5), two_kinds(60, 7))
    assert {"bispectrum", "phases", "minkowski"} <= rejected(found)
    kept = compared(two_kinds(60, 6), two_kinds(40, 5), two_kinds(60, 7))
    assert rejected(kept) == set()


def test_targets_of_two_laws_are_told_apart_from_one_another() -> None:
    # Samples are true to the fit targets; what they are held against is another mixture.
    found = compared(lognormal(60, 6), lognormal(40, 5), two_kinds(60, 7))
    differ = {test.name for test in found.families if test.targets_differ}
    assert {"bispectrum", "phases", "minkowski"} <= differ & rejected(found)
    assert "fit and held-out targets themselves differ in the bispectrum" in summarize(
        {}, CopySearch(), found
    )
    same = compared(lognormal(60, 6), lognormal(40, 5), lognormal(60, 7))
    assert not any(test.targets_differ for test in same.families)
    assert "themselves" not in summarize({}, CopySearch(), same)
    assert found.families[-1].targets_adjusted is None  # of what is steered, nothing is asked


def test_few_maps_over_and_over_cost_variety_alone() -> None:
    samples = lognormal(6, 6).repeat(10, 1, 1, 1) + 1e-6 * torch.rand(60, 1, SIDE, SIDE)
    variety = {row.name: row for row in of_samples(samples, lognormal(60, 7)).variety}
    for name in ("recall", "coverage", "vendi"):
        assert variety[name].value < variety[name].low
    assert variety["vendi"].value < 6.5
    assert variety["precision"].value >= variety["precision"].low


def test_brightness_and_contrast_are_none_of_its_business() -> None:
    # They are steered: other scores measure them. Exact, but for rounding, by a power of two.
    samples, held_out = lognormal(30, 2), lognormal(30, 4)
    plain, bright = of_samples(samples, held_out), of_samples(4 * samples, held_out)
    for one, other in zip(plain.families, bright.families, strict=True):
        assert one.distance == pytest.approx(other.distance, abs=1e-9)
        assert one.p_value == other.p_value


def test_tests_are_a_function_of_maps_and_root() -> None:
    samples, held_out = lognormal(20, 2), lognormal(20, 4)
    assert asdict(of_samples(samples, held_out)) == asdict(of_samples(samples, held_out))
    assert (
        of_samples(samples, held_out, 1).families[0] != of_samples(samples, held_out, 2).families[0]
    )


def test_a_further_family_changes_no_number_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stands in the table: only the adjustment for the number of families differs."""
    samples, fit, held_out = lognormal(20, 2), lognormal(20, 1), lognormal(20, 4)
    plain = {test.name: test for test in compared(samples, fit, held_out).families}
    more = Family("means", "means", lambda maps: maps.mean((-2, -1)))
    monkeypatch.setattr(two_sample, "FAMILIES", {"means": more, **FAMILIES})
    monkeypatch.setitem(FAMILIES, "means", more)
    found = {test.name: test for test in compared(samples, fit, held_out).families}
    assert found.keys() - plain.keys() == {"means"}
    for name, test in plain.items():
        again = found[name]
        assert (test.p_value, test.real_p) == (again.p_value, again.real_p)
        assert (test.distance, test.targets_distance) == (again.distance, again.targets_distance)


def test_large_sets_are_thinned() -> None:
    noise = torch.from_numpy(fields.rng(1).standard_normal((700, 1, 8, 8)))
    found = compared(noise[:600], noise[600:640], noise[640:])
    assert (found.samples, found.held_out) == (512, 60)


def test_few_and_small_maps_have_a_clear_outcome() -> None:
    few = of_samples(lognormal(2, 2), lognormal(4, 4))
    assert not few.conclusive and few.classifier is None and few.variety == ()
    assert few.attainable_p == pytest.approx(5 / 15)
    assert all(math.isinf(test.detectable_shift) for test in few.families[:5])
    assert (
        rejected(few) == set()
        and "too few maps to test" in summarize({}, CopySearch(), few).lower()
    )
    small = torch.from_numpy(fields.rng(1).standard_normal((60, 2, 6, 7)))
    found = compared(small[:20], small[20:40], small[40:])
    names = ["minkowski", "peaks", "detail", "channels", "colours", "scattering"]
    assert [test.name for test in found.families] == names
    flat = compared(0 * small[:20], small[20:40], small[40:])
    assert rejected(flat) >= {"minkowski", "peaks"}


def test_channels_that_belong_to_other_maps_are_told_apart() -> None:
    def pairs(n: int, seed: int) -> torch.Tensor:
        one, other = lognormal(n, seed), lognormal(n, seed + 1000)
        return torch.cat([one, 0.7 * one + 0.7 * other], dim=1)

    samples = pairs(60, 2)
    shuffled = torch.cat([samples[:, :1], samples[:, 1:].roll(1, 0)], dim=1)
    assert rejected(compared(shuffled, pairs(40, 5), pairs(60, 7))) == {"channels", "colours"}
    assert rejected(compared(samples, pairs(40, 5), pairs(60, 7))) == set()


def test_the_attainable_p_counts_divisions() -> None:
    assert [attainable_p(2, 4), attainable_p(3, 3), attainable_p(50, 60)] == [
        1 / 15,
        2 / 20,
        1 / 1000,
    ]
