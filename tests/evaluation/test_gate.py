"""The gate: four outcomes, limits in the right direction, and no pass by default."""

from dataclasses import replace

import pytest
import torch

from ood_core.config.gate import KINDS_OF_COPIES, GateSpec
from ood_core.evaluation.gate import decide
from ood_core.evaluation.results import (
    Band,
    Copy,
    CopySearch,
    EvaluationResult,
    FamilyTest,
    HistogramCurves,
    MemorizationCheck,
    Score,
    SpectrumCurves,
    TwoSampleTests,
)


def two_sample(*adjusted: float, attainable_p: float = 0.004) -> TwoSampleTests:
    tests = [
        FamilyTest("f", "f", p is None, 1, 0.0, 0.001, p, 0.0, 0.5, 0.1, 0.1)
        for p in (*adjusted, None)
    ]
    return TwoSampleTests(64, 64, tuple(tests), attainable_p, None, ())


SEEN = CopySearch(power=dict.fromkeys(KINDS_OF_COPIES, 1.0))


def result(tests: TwoSampleTests | None = None, **values: float) -> EvaluationResult:
    curve = torch.zeros(1, 2)
    band = Band(curve, curve, curve)
    scores = {
        name: Score(name, name, value, 0.0, 0.0, 0.0, "lower", "") for name, value in values.items()
    }
    return EvaluationResult(
        scores=scores,
        spectrum=SpectrumCurves(torch.zeros(2), band, band),
        histogram=HistogramCurves(curve, curve, band),
        nearest_samples=torch.zeros(2),
        nearest_real=torch.zeros(2),
        closest=(),
        least_typical=(),
        count=64,
        tests=tests or two_sample(1.0),
        memorization=(MemorizationCheck("pixels", "pixels", 0.5, 0.01, 0, 1.0),),
        copies=SEEN,
        summary="",
    )


SCORES = result(spectrum_error=0.1, pixel_wasserstein=0.3, c2st=0.6, nearest_ratio=0.95)


def test_a_gate_without_conditions_publishes_nothing() -> None:
    decision = decide(GateSpec(), SCORES, held_out=1000)
    assert decision.outcome == "complete"
    assert len(decision.reasons) == 1


@pytest.mark.parametrize(
    ("name", "met", "missed"),
    [
        ("spectrum_error", 0.2, 0.05),
        ("pixel_wasserstein", 0.4, 0.2),
        ("c2st", 0.7, 0.55),
        ("nearest_ratio", 0.9, 1.0),
    ],
)
def test_every_limit_binds_in_its_own_direction(name: str, met: float, missed: float) -> None:
    good = decide(GateSpec(**{name: met}), SCORES, 30)
    bad = decide(GateSpec(**{name: missed}), SCORES, 30)
    assert (good.outcome, bad.outcome) == ("published", "quarantined")
    assert name in good.reasons[0]
    assert good.reasons[0].endswith(": met")
    assert bad.reasons[0].endswith(": not met")


@pytest.mark.parametrize(("p", "outcome"), [(0.5, "published"), (0.01, "quarantined")])
def test_flagged_copies_in_pixels_can_be_a_condition(p: float, outcome: str) -> None:
    pixels = MemorizationCheck("pixels", "pixels", 0.5, 0.01, 9, p)
    near = MemorizationCheck("scattering", "moments", 5.0, 0.01, 500, 1e-9)  # steered there
    found = replace(SCORES, memorization=(pixels, near))
    gate = GateSpec(spectrum_error=0.2, copies_p=0.05)
    assert decide(gate, found, 30).outcome == outcome
    unlooked = replace(SCORES, memorization=(near,))
    assert decide(gate, unlooked, 30).outcome == "undecided"


@pytest.mark.parametrize(
    ("gate", "copies", "outcome"),
    [
        (GateSpec(), 1, "complete"),
        (GateSpec(spectrum_error=0.2), 1, "published"),
        (GateSpec(), 2, "quarantined"),
        (GateSpec(spectrum_error=0.2), 2, "quarantined"),
        (GateSpec(spectrum_error=0.2, copies=0.05), 3, "published"),
        (GateSpec(spectrum_error=0.2, copies=0.05), 4, "quarantined"),
        (GateSpec(spectrum_error=0.2, copies=0), 1, "quarantined"),
    ],
)
def test_copies_are_left_out_and_too_many_are_refused(
    gate: GateSpec, copies: int, outcome: str
) -> None:
    """Of 64 samples, one or the share that is asked, whichever is more."""
    found = replace(SEEN, found=tuple(Copy(3 + n, 7, "pixels", 0.0) for n in range(copies)))
    decision = decide(gate, replace(SCORES, copies=found), 30)
    assert decision.outcome == outcome
    assert decision.reasons[-1].startswith("left out: sample 3 of target 7 (pixels)")
    if outcome == "quarantined":  # however few maps there are to compare
        assert decide(gate, replace(SCORES, copies=found), 5).outcome == outcome


@pytest.mark.parametrize(
    ("repeats", "real", "outcome"),
    [(1, 0, "published"), (2, 0, "quarantined"), (2, 1, "published"), (0, 1, "published")],
)
def test_samples_that_repeat_others_are_refused_unless_real_maps_do(
    repeats: int, real: int, outcome: str
) -> None:
    found = replace(SCORES, copies=replace(SEEN, repeats=repeats, real_repeats=real))
    decision = decide(GateSpec(spectrum_error=0.2), found, 30)
    assert decision.outcome == outcome
    assert any(r.startswith("repeats is") for r in decision.reasons) == (repeats > 0 and not real)


def test_what_the_search_may_have_missed_is_said() -> None:
    part = replace(SCORES, copies=replace(SEEN, power={**SEEN.power, "window": 0.9}))
    reasons = decide(GateSpec(spectrum_error=0.2), part, 30).reasons
    assert reasons[-1] == "not all planted copies are found of kind window (0.90)"


@pytest.mark.parametrize(("share", "outcome"), [(0.8, "published"), (0.75, "undecided")])
def test_a_search_without_power_decides_nothing(share: float, outcome: str) -> None:
    weak = replace(SEEN, power={**SEEN.power, "noise": share, "quadrant": 0.0})
    whole = GateSpec(spectrum_error=0.2, copy_kinds=KINDS_OF_COPIES[:5])
    decision = decide(whole, replace(SCORES, copies=weak), 30)
    assert decision.outcome == outcome
    assert outcome == "published" or "noise (0.75)" in decision.reasons[0]
    assert outcome == "undecided" or decision.reasons[-1].endswith("of kind quadrant (0.00)")
    assert decide(GateSpec(spectrum_error=0.2), replace(SCORES, copies=weak), 30).outcome == (
        "undecided"
    )
    failing = decide(GateSpec(spectrum_error=0.01), replace(SCORES, copies=weak), 30)
    assert failing.outcome == "quarantined"  # whatever could be seen
    unmeasured = replace(SCORES, copies=CopySearch())
    assert decide(GateSpec(spectrum_error=0.2), unmeasured, 30).outcome == "undecided"
    strict = GateSpec(spectrum_error=0.2, copy_kinds=("quadrant",))
    assert decide(strict, replace(SCORES, copies=weak), 30).outcome == "undecided"


def test_a_limit_that_is_just_reached_is_met() -> None:
    gate = GateSpec(spectrum_error=0.1, c2st=0.6, nearest_ratio=0.95)
    assert decide(gate, SCORES, 30).outcome == "published"


def test_one_condition_that_fails_is_enough() -> None:
    gate = GateSpec(spectrum_error=0.2, c2st=0.55, nearest_ratio=0.9)
    decision = decide(gate, SCORES, 30)
    assert decision.outcome == "quarantined"
    assert [r.endswith(": met") for r in decision.reasons] == [True, False, True, True, True]


@pytest.mark.parametrize(("held_out", "outcome"), [(29, "undecided"), (30, "published")])
def test_too_few_held_out_maps_decide_nothing(held_out: int, outcome: str) -> None:
    assert decide(GateSpec(spectrum_error=0.2), SCORES, held_out).outcome == outcome


def test_bad_scores_with_too_few_maps_are_undecided_and_not_quarantined() -> None:
    decision = decide(GateSpec(spectrum_error=0.01), SCORES, 3)
    assert decision.outcome == "undecided"
    assert "3 held-out targets" in decision.reasons[0]


@pytest.mark.parametrize(("worth", "outcome"), [(29.0, "undecided"), (30.0, "published")])
def test_neighbours_that_are_alike_count_for_what_they_are_worth(
    worth: float, outcome: str
) -> None:
    tests = replace(two_sample(1.0), block=2, effective=worth)
    found = replace(SCORES, tests=tests)
    assert decide(GateSpec(spectrum_error=0.2), found, 64).outcome == outcome


@pytest.mark.parametrize("name", ["spectrum_error", "nearest_ratio"])
def test_a_score_that_is_no_number_never_passes(name: str) -> None:
    scores = result(**{name: float("nan")})
    assert decide(GateSpec(**{name: 0.5}), scores, 30).outcome == "quarantined"


@pytest.mark.parametrize(
    ("p", "outcome"), [(0.2, "published"), (0.05, "published"), (0.049, "quarantined")]
)
def test_the_smallest_adjusted_p_is_held_against_its_limit(p: float, outcome: str) -> None:
    # The steered family has a p of 0.001 and no say.
    decision = decide(GateSpec(unsteered_p=0.05), result(two_sample(1.0, p)), 30)
    assert decision.outcome == outcome
    assert decision.reasons[0].startswith(f"unsteered_p is {p:.3g}, asked at least 0.05")


def test_a_test_that_cannot_fail_decides_nothing() -> None:
    few = result(two_sample(1.0, attainable_p=0.1))
    decision = decide(GateSpec(unsteered_p=0.05), few, 30)
    assert decision.outcome == "undecided" and "0.1 or more" in decision.reasons[0]
    assert decide(GateSpec(unsteered_p=0.2), few, 30).outcome == "published"
    assert decide(GateSpec(unsteered_p=0.05), result(two_sample(1.0)), 29).outcome == "undecided"
