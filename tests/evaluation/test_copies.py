"""Single copies: none is published, no real map is called one, and the power is what it says."""

import numpy as np
import pytest
import torch
from scipy.ndimage import rotate

from ood_core.config.gate import KINDS_OF_COPIES, GateSpec
from ood_core.evaluation.copies import (
    FALSE_ALARMS,
    KINDS,
    SPACES,
    CopyLimits,
    planted,
)
from ood_core.evaluation.evaluate import evaluate_maps, nearest_score
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.gate import Decision, decide
from ood_core.evaluation.results import EvaluationResult
from ood_core.numerics.random import Root
from ood_core.numerics.tails import limit
from tests.oracles.fields import power_law

DIHEDRAL = ("flip", "rotate90")
GATE = GateSpec(unsteered_p=0.05, copies_p=0.05, nearest_ratio=0.9, copy_kinds=KINDS_OF_COPIES[:9])


def judged(
    samples: torch.Tensor, fit: torch.Tensor, held: torch.Tensor
) -> tuple[EvaluationResult, Decision]:
    result = evaluate_maps(samples, fit, held, DIHEDRAL, Root(7))
    return result, decide(GATE, result, len(held))


FIT, HELD, SAMPLES = (power_law(n, 16, seed=s) for n, s in ((32, 1), (64, 2), (128, 3)))


def test_a_set_of_real_maps_is_published() -> None:
    result, decision = judged(SAMPLES, FIT, HELD)
    assert decision.outcome == "published" and result.near_copies == 0
    assert "no copy of a target is seen" in result.summary
    # Eight pixels aside of smooth maps are often alike, and the sentence says so.
    assert "a search that would miss quadrants" in result.summary
    assert all(share == 1 for kind, share in result.copies.power.items() if kind in GATE.copy_kinds)
    assert "not asked, and would not be seen: copies of kind quadrant" in decision.reasons[-1]
    assert decide(GateSpec(unsteered_p=0.05), result, len(HELD)).outcome == "undecided"


@pytest.mark.parametrize(("copies", "outcome"), [(1, "published"), (6, "quarantined")])
def test_every_target_among_samples_is_named_and_left_out(copies: int, outcome: str) -> None:
    samples = torch.cat([FIT[:copies], SAMPLES[copies:]])
    result, decision = judged(samples, FIT, HELD)
    assert (decision.outcome, decision.reasons[-1][:8]) == (outcome, "left out")
    assert [(c.sample, c.target, c.nearness) for c in result.copies.found] == [
        (i, i, 0.0) for i in range(copies)
    ]


def test_a_duplicate_among_the_held_out_maps_switches_nothing_off() -> None:
    noise = torch.randn(32, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    samples = torch.cat([FIT + 0.02 * noise, SAMPLES[32:]])
    doubled = torch.cat([HELD[:63], FIT[:1]])
    result, decision = judged(samples, FIT, doubled)
    assert decision.outcome == "quarantined" and result.copies.shared == (63,)
    assert result.copies.samples == tuple(range(32))
    assert judged(SAMPLES, FIT, doubled)[1].outcome == "published"


def test_duplicates_leave_the_band_of_the_nearest_ratio_as_narrow() -> None:
    """A distance of 0 is an outlier of a logarithm; the control are a third of all."""
    far = torch.from_numpy(np.random.default_rng(0).gamma(20, size=64))

    def width(duplicates: int) -> float:
        real = torch.cat([torch.zeros(duplicates), far[duplicates:]])
        score = nearest_score(far, real, Root(0))
        return score.high - score.low

    assert width(1) == pytest.approx(width(0), rel=0.1)
    assert width(9) < 2 * width(0) < 5 * width(0) < width(21)


def test_samples_that_repeat_one_another_are_counted_and_refused() -> None:
    """As they are, mirrored and turned; not with a little noise, which makes another map."""
    again = torch.cat([SAMPLES[:1].flip(-1), SAMPLES[1:2].rot90(1, (2, 3)), SAMPLES[2:3]])
    noised = again + 0.05 * torch.randn(again.shape, generator=torch.Generator().manual_seed(0))
    result, decision = judged(torch.cat([again, noised, SAMPLES[:-6]]), FIT, HELD)
    assert (result.copies.repeats, result.copies.real_repeats) == (3, 0)
    assert decision.outcome == "quarantined" and "3 samples repeat another one" in result.summary


def test_where_many_held_out_maps_are_targets_no_copy_is_told_and_nothing_decided() -> None:
    mixed = torch.cat([HELD[:44], FIT[:20] + 1e-3])
    result, decision = judged(SAMPLES, FIT, mixed)
    assert decision.outcome == "undecided" and "would not see" in decision.reasons[0]
    assert result.copies.power["noise"] < 0.8


def test_turned_and_moved_windows_of_targets_are_seen() -> None:
    big, other = power_law(32, 64, seed=1), power_law(64, 64, seed=2)

    def cut(maps: torch.Tensor, at: int) -> torch.Tensor:
        return maps[..., at : at + 32, at : at + 32].contiguous()

    fit, held = cut(big, 16), cut(other, 16)
    turned = np.stack([rotate(m[0], 45, reshape=False, mode="reflect") for m in big.numpy()])
    extractor = FeatureExtractor.of(fit, held, DIHEDRAL)
    limits = CopyLimits.calibrate(extractor.copy_distances(held), 128)
    for samples in (cut(torch.from_numpy(turned)[:, None], 16), cut(big, 20), cut(big, 24)):
        found = limits.copies(extractor.copy_distances(samples))
        assert len(found) >= 30
        assert sum(copy.sample == copy.target for copy in found) >= 30
    assert not limits.copies(extractor.copy_distances(cut(other, 0)))


def test_the_limit_is_the_tail_of_a_weibull_law_in_closed_form() -> None:
    # Quantiles of the law itself: ln d = b ln(-ln(1 - p)), so that the slope is b exactly.
    b, m = 0.5, 100_000
    p = (torch.arange(m).double() + 0.5) / m
    exact = torch.exp(b * torch.log(-torch.log1p(-p)))
    cautious = b * (1 + 4 / m**0.5)
    middle = b * np.log(np.log(2))
    expected = np.exp(middle - cautious * (np.log(np.log(2)) - np.log(-np.log1p(-1e-6))))
    assert limit(exact, 1e-6) == pytest.approx(expected, rel=5e-3)


@pytest.mark.parametrize("m", [30, 64])
def test_a_further_real_map_is_within_the_limit_no_more_often_than_asked(m: int) -> None:
    # d of a Weibull law, whose tail is known: the mean of P(d < limit) over held-out sets is the
    # rate at which a set of 100 maps would raise a false alarm, and may not exceed what is asked.
    rng = np.random.default_rng(0)
    b, rates = 0.1, []
    for _ in range(2000):
        within = limit(torch.from_numpy(rng.weibull(1 / b, m)), 1e-4)
        rates.append(-np.expm1(-(within ** (1 / b))))
    assert np.median(rates) > 1e-8 and np.mean(rates) < 1e-4


def test_one_held_out_map_in_eleven_cannot_bring_a_limit_down_to_nothing() -> None:
    rng = np.random.default_rng(1)
    clean = torch.from_numpy(rng.weibull(20, 64))
    for spoilt in (1, 5):
        with_copies = torch.cat([clean[spoilt:], torch.zeros(spoilt)])
        assert limit(with_copies, 1e-5) > 0.5 * limit(clean, 1e-5) > 0.1
    assert limit(torch.cat([clean[12:], torch.zeros(12)]), 1e-5) < 1e-6


def test_the_kinds_that_are_planted_are_those_that_the_gate_knows() -> None:
    assert tuple(KINDS) == KINDS_OF_COPIES


@pytest.mark.parametrize("kind", KINDS_OF_COPIES)
def test_every_kind_is_a_copy_and_is_planted_by_its_number_alone(kind: str) -> None:
    extractor = FeatureExtractor.of(FIT, HELD, DIHEDRAL)
    maps = planted(extractor, kind, Root(1), 6)
    assert maps.shape == (6, 1, 16, 16) and bool(maps.isfinite().all())
    assert torch.equal(maps, planted(extractor, kind, Root(1), 6))
    assert not torch.equal(maps, planted(extractor, kind, Root(1), 6, number=1))
    if kind == "detail":  # 0.01 of the fine modes' power is let in at the longest wave
        assert float(extractor.pieces.nearest(maps)["waves"].distance.max()) < 0.3
    if kind == "inversion":
        assert float(extractor.pieces.nearest(maps)["window"].distance.max()) < 0.01
    if kind in ("verbatim", "symmetry", "shift", "contrast"):  # exact in a map's own units
        assert float(extractor.nearest_shifted(maps).distance.max()) < 1e-5


def test_real_maps_raise_a_false_alarm_as_rarely_as_stated() -> None:
    # 8 sets of 256 real maps at 1 %: two alarms or more have a probability of 0.3 %.
    extractor = FeatureExtractor.of(FIT, HELD, DIHEDRAL)
    limits = CopyLimits.calibrate(extractor.copy_distances(HELD), 256)
    features = extractor.copy_distances(power_law(2048, 16, seed=9))
    near = limits.within(features).reshape(8, 256).any(1)
    assert FALSE_ALARMS == 0.01 and int(near.sum()) <= 1
    assert list(limits.limits) == list(SPACES)
