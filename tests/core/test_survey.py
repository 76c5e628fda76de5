"""One pass: any blocks, any order of merging, give the same sums, extremes and panel."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.errors import TargetError
from ood_core.evaluation.features import Rows
from ood_core.evaluation.streaming import PANEL, Limits, Survey, Tally, joined, panel, survey, taken
from ood_core.metrics.distances import Whitening, frechet, frechet_of_moments
from ood_core.metrics.moments import Moments
from tests.oracles import fields
from tests.strategies import repeatable

COUNT, FEATURES = 60, 5


def rows(count: int = COUNT, seed: int = 0) -> Rows:
    rng = fields.rng(seed)
    return {
        "power": torch.from_numpy(rng.gamma(1.0, size=(count, 1, 4))).float(),
        "pixels": torch.from_numpy(rng.integers(0, 256, size=(count, 1, 6))).int(),
        "beyond": torch.from_numpy(rng.gamma(1.0, size=(count, 1, 2))).float(),
        # A mean far from 0 beside the spread: where sums of squares would cancel.
        "scattering": torch.from_numpy(1e3 + rng.standard_normal((count, FEATURES))).float(),
        "distance": torch.from_numpy(rng.gamma(4.0, size=count).round(1)).float(),
        "shifted": torch.from_numpy(rng.gamma(4.0, size=count)).float(),
        "target": torch.arange(count).int(),
        "element": torch.arange(count).int() % 3,
    }


WHOLE = rows()
WHITENING = Whitening.fit(WHOLE["scattering"])


def parts(cuts: list[int], of: Rows = WHOLE) -> list[Rows]:
    stop = len(of["distance"])
    places = [0, *sorted(cuts), stop]
    return [taken(of, torch.arange(a, b)) for a, b in pairwise(places)]


def assert_same(one: Tally, other: Tally) -> None:
    # Merging n parts rounds n times at most: 60 * 1.1e-16 relative to the largest term, with room.
    assert one.count == other.count
    assert one.pixels.equal(other.pixels)
    for a, b in (
        (one.power, other.power),
        (one.beyond, other.beyond),
        (one.features.mean, other.features.mean),
        (one.features.scatter, other.features.scatter),
    ):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11 * float(b.abs().max()) + 1e-11)


@repeatable
@given(st.lists(st.integers(0, COUNT), max_size=8), st.randoms(use_true_random=False))
def test_tallies_merge_in_any_grouping_and_order(cuts, random) -> None:
    tallies = [Tally.of(part, WHITENING) for part in parts(cuts)]
    while len(tallies) > 1:
        first, second = (tallies.pop(random.randrange(len(tallies))) for _ in range(2))
        tallies.insert(random.randrange(len(tallies) + 1), first.merge(second))
    assert_same(tallies[0], Tally.of(WHOLE, WHITENING))


LIMITS = Limits(WHITENING(rows(9, 8)["scattering"]), plain=2.0, shifted=3.0, statistic=2.0)


def looked(blocks: list[Rows], count: int = COUNT) -> Survey:
    return survey(blocks, count, WHITENING, LIMITS, root=3)


@repeatable
@given(st.lists(st.integers(1, COUNT - 1), unique=True, max_size=12))
def test_a_survey_does_not_depend_on_its_blocks(cuts) -> None:
    one, other = looked(parts(cuts)), looked([WHOLE])
    assert_same(one.tally, other.tally)
    assert one.closest.equal(other.closest) and one.worst == other.worst
    assert one.copies == other.copies
    near = torch.cdist(WHITENING(WHOLE["scattering"]), LIMITS.fit).amin(1)
    assert one.copies == {
        "plain": int((WHOLE["distance"] <= 2.0).sum()),
        "shifted": int((WHOLE["shifted"] <= 3.0).sum()),
        "statistic": int((near <= 2.0).sum()),
    }
    for found in (one.panel, one.closest_rows):
        assert found.keys() == WHOLE.keys()
    assert all(one.panel[name].equal(WHOLE[name]) for name in WHOLE)


def test_extremes_are_those_of_all_rows() -> None:
    found = looked(parts([7, 8, 30, 59]))
    order = WHOLE["distance"].argsort(stable=True)[:8]
    assert found.closest.equal(order)
    assert found.closest_rows["target"].tolist() == order.tolist()
    length = WHITENING(WHOLE["scattering"]).square().sum(1)
    assert found.worst == tuple((-length).argsort(stable=True)[:8].tolist())


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


def test_a_large_set_is_looked_at_by_a_random_panel() -> None:
    count = 3 * PANEL
    drawn = panel(count, root=3)
    assert len(drawn) == PANEL and drawn.unique().equal(drawn)
    assert not drawn.equal(panel(count, root=4)) and drawn.equal(panel(count, root=3))
    # Uniform: of each third one third, within five standard deviations of the draw.
    shares = torch.histc(drawn.double(), 3, 0, count)
    assert (shares - PANEL / 3).abs().max() < 5 * (PANEL * 2 / 9) ** 0.5
    large = rows(count)
    found = survey(parts([100, 5000], large), count, WHITENING, LIMITS, root=3)
    assert found.drawn.equal(drawn) and found.tally.count == count
    assert found.panel["target"].long().equal(drawn)
    assert joined(parts([9], large))["target"].equal(large["target"])


def test_values_that_are_not_finite_are_refused_with_their_number() -> None:
    broken = rows()
    broken["scattering"][41, 2] = torch.nan
    with pytest.raises(TargetError, match="first of them number 41"):
        looked(parts([30], broken))
