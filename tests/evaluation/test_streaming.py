"""One pass: any blocks, any order of merging, give the same sums, extremes and subsample."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.errors import TargetError
from ood_core.evaluation.copies import SPACES, CopyLimits
from ood_core.evaluation.features import Features, concatenated, picked
from ood_core.evaluation.memorization import CopyThresholds
from ood_core.evaluation.streaming import (
    SUBSAMPLE,
    Accumulated,
    FeatureSums,
    accumulate,
    subsample,
)
from ood_core.metrics.distances import Moments, Whitening, frechet, frechet_of_moments
from ood_core.numerics.random import Root
from tests.oracles import fields
from tests.strategies import repeatable

COUNT, FEATURES = 60, 5
PLACED = tuple(SPACES.values())


def rows(count: int = COUNT, seed: int = 0) -> Features:
    rng = fields.rng(seed)
    return {
        "power": torch.from_numpy(rng.gamma(1.0, size=(count, 1, 4))).float(),
        "pixels": torch.from_numpy(rng.integers(0, 256, size=(count, 1, 6))).int(),
        "beyond": torch.from_numpy(rng.gamma(1.0, size=(count, 1, 2))).float(),
        # A mean far from 0 beside the spread: where sums of squares would cancel.
        "scattering": torch.from_numpy(1e3 + rng.standard_normal((count, FEATURES))).float(),
        "distance": torch.from_numpy(rng.gamma(4.0, size=count).round(1)).float(),
        "shifted": torch.from_numpy(rng.gamma(4.0, size=count)).float(),
        **{n: torch.from_numpy(rng.gamma(4.0, size=count)).float() for n in PLACED[1:]},
        "target": torch.arange(count).int(),
        **{f"{n}_target": torch.arange(count).int() + k for k, n in enumerate(PLACED)},
        "element": torch.arange(count).int() % 3,
    }


WHOLE = rows()
WHITENING = Whitening.fit(WHOLE["scattering"])


def parts(cuts: list[int], of: Features = WHOLE) -> list[Features]:
    stop = len(of["distance"])
    places = [0, *sorted(cuts), stop]
    return [picked(of, torch.arange(a, b)) for a, b in pairwise(places)]


def assert_same(one: FeatureSums, other: FeatureSums) -> None:
    # Merging n parts rounds n times at most: 60 * 1.1e-16 relative to the largest term, with room.
    assert one.count == other.count
    assert one.pixels.equal(other.pixels)
    for a, b in (
        (one.power, other.power),
        (one.beyond, other.beyond),
        (one.scattering.mean, other.scattering.mean),
        (one.scattering.scatter, other.scattering.scatter),
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()) + 1e-11)


@repeatable
@given(st.lists(st.integers(0, COUNT), max_size=8), st.randoms(use_true_random=False))
def test_sums_merge_in_any_grouping_and_order(cuts, random) -> None:
    sums = [FeatureSums.of(part, WHITENING) for part in parts(cuts)]
    while len(sums) > 1:
        first, second = (sums.pop(random.randrange(len(sums))) for _ in range(2))
        sums.insert(random.randrange(len(sums) + 1), first.merge(second))
    assert_same(sums[0], FeatureSums.of(WHOLE, WHITENING))


THRESHOLDS = CopyThresholds(
    WHITENING(rows(9, 8)["scattering"]), CopyLimits(dict.fromkeys(SPACES, 1.5)), (), 60,
    pixels=3.0, pixels_rate=0.01, scattering=2.0, scattering_rate=0.01,
)  # fmt: skip


def found_in(blocks: list[Features], count: int = COUNT) -> Accumulated:
    return accumulate(blocks, count, WHITENING, THRESHOLDS, Root(3))


@repeatable
@given(st.lists(st.integers(1, COUNT - 1), unique=True, max_size=12))
def test_a_pass_does_not_depend_on_its_blocks(cuts) -> None:
    one, other = found_in(parts(cuts)), found_in([WHOLE])
    assert_same(one.sums, other.sums)
    assert one.closest == other.closest and one.least_typical == other.least_typical
    assert one.flagged == other.flagged
    near = torch.cdist(WHITENING(WHOLE["scattering"]), THRESHOLDS.targets).amin(1)
    assert one.flagged == {
        "pixels": int((WHOLE["shifted"] <= 3.0).sum()),
        "scattering": int((near <= 2.0).sum()),
    }
    least, space = torch.stack([WHOLE[name] for name in PLACED]).min(0)
    expected = [(i, i + int(space[i])) for i in range(COUNT) if least[i] <= 1.5]
    assert one.copies == other.copies and expected
    assert [(c.sample, c.target) for c in one.copies] == expected
    assert one.subsample.keys() == WHOLE.keys()
    assert all(one.subsample[name].equal(WHOLE[name]) for name in WHOLE)


def test_extremes_are_those_of_all_rows() -> None:
    found = found_in(parts([7, 8, 30, 59]))
    order = WHOLE["distance"].argsort(stable=True)[:8]
    assert [pair.sample for pair in found.closest] == order.tolist()
    assert [pair.target for pair in found.closest] == order.tolist()
    assert [pair.distance for pair in found.closest] == WHOLE["distance"][order].tolist()
    length = WHITENING(WHOLE["scattering"]).square().sum(1)
    assert found.least_typical == tuple((-length).argsort(stable=True)[:8].tolist())


def test_moments_do_not_cancel_where_squares_would() -> None:
    far = 1e8 + torch.from_numpy(fields.rng(1).standard_normal((1000, 2)))
    merged = Moments.of(far[:1])
    for part in far[1:].split(7):
        merged = merged.merge(Moments.of(part))
    torch.testing.assert_close(merged.covariance, far.T.cov(), rtol=1e-6, atol=1e-6)
    assert Moments.of(far[:0]).merge(Moments.of(far)).count == 1000
    assert Moments.of(far).merge(Moments.of(far[:0])).count == 1000
    assert Moments.of(far[:0]).merge(Moments.of(far[:0])).count == 0


def test_the_distance_of_moments_is_that_of_rows() -> None:
    a, b = rows(50, 1)["scattering"], 2 + rows(40, 2)["scattering"]
    a, b = a - 1e3, b - 1e3
    assert frechet_of_moments(Moments.of(a), Moments.of(b)) == pytest.approx(frechet(a, b))


def test_a_large_set_is_compared_by_a_random_subsample() -> None:
    count = 3 * SUBSAMPLE
    drawn = subsample(count, Root(3))
    assert len(drawn) == SUBSAMPLE and drawn.unique().equal(drawn)
    assert not drawn.equal(subsample(count, Root(4))) and drawn.equal(subsample(count, Root(3)))
    # Uniform: of each third one third, within five standard deviations of the draw.
    shares = torch.histc(drawn.double(), 3, 0, count)
    assert (shares - SUBSAMPLE / 3).abs().max() < 5 * (SUBSAMPLE * 2 / 9) ** 0.5
    large = rows(count)
    found = accumulate(parts([100, 5000], large), count, WHITENING, THRESHOLDS, Root(3))
    assert found.drawn.equal(drawn) and found.sums.count == count
    assert found.subsample["target"].long().equal(drawn)
    assert concatenated(parts([9], large))["target"].equal(large["target"])


def test_values_that_are_not_finite_are_refused_with_their_number() -> None:
    broken = rows()
    broken["scattering"][41, 2] = torch.nan
    with pytest.raises(TargetError, match="first of them number 41"):
        found_in(parts([30], broken))
