"""Evaluation: the same distribution lies inside the real band, each planted fault outside it."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.errors import InputError, TargetError
from ood_core.evaluation.evaluate import _quantiles, evaluate, evaluate_maps
from ood_core.evaluation.results import (
    CopySearch,
    EvaluationResult,
    MemorizationCheck,
    Score,
    TwoSampleTests,
)
from ood_core.evaluation.summary import summarize
from ood_core.maps.target_set import TargetSet
from ood_core.numerics.random import Root

DIHEDRAL: tuple[Symmetry, ...] = ("flip", "rotate90")


def field(n: int, seed: int, side: int = 16) -> torch.Tensor:
    """Log-normal field with a k^-3 spectrum, about unit spread."""
    white = torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))
    ky, kx = torch.fft.fftfreq(side)[:, None], torch.fft.fftfreq(side)[None]
    slope = torch.hypot(ky, kx).clamp(min=1 / side) ** -1.5
    smooth = torch.fft.ifft2(torch.fft.fft2(white) * slope).real
    return torch.exp(0.5 * smooth / smooth.std()) - 1.1


def check(samples: torch.Tensor, held_out: int = 80) -> EvaluationResult:
    return evaluate_maps(samples, field(32, 1), field(held_out, 2), DIHEDRAL, Root(7))


@pytest.fixture(scope="module")
def same_distribution() -> EvaluationResult:
    return check(field(200, 3))


def test_the_same_distribution_lies_inside_every_band(same_distribution: EvaluationResult) -> None:
    assert {name: score.inside for name, score in same_distribution.scores.items()} == {
        "spectrum_error": True,
        "pixel_wasserstein": True,
        "fsd": True,
        "c2st": True,
        "nearest_ratio": True,
    }
    assert same_distribution.near_copies == 0
    assert (
        "no copy of a target is seen" in same_distribution.summary
        and "outside" not in same_distribution.summary
    )
    assert "maps are too few to show a difference, or there is none" in same_distribution.summary


def test_every_band_holds_its_own_median(same_distribution: EvaluationResult) -> None:
    assert all(score.low <= score.real <= score.high for score in same_distribution.scores.values())


def test_blurred_maps_fall_outside_the_spectrum_band() -> None:
    samples = field(200, 3)
    blurred = (
        samples + samples.roll(1, -1) + samples.roll(1, -2) + samples.roll((1, 1), (-2, -1))
    ) / 4
    report = check(blurred)
    assert not report.scores["spectrum_error"].inside
    assert not report.scores["fsd"].inside
    assert report.scores["c2st"].value > 0.9
    assert "outside" in report.summary


def test_a_shifted_brightness_falls_outside_the_pixel_band() -> None:
    report = check(field(200, 3) + 0.5)
    assert not report.scores["pixel_wasserstein"].inside
    assert report.scores["spectrum_error"].inside


def test_copies_of_the_targets_are_called_copies() -> None:
    turned = torch.rot90(field(32, 1), 1, (-2, -1)).flip(-1)
    report = check(turned + 1e-3 * torch.randn(turned.shape))
    assert report.scores["nearest_ratio"].value < 0.02
    assert report.near_copies == 32
    assert "32 samples are copies of a target" in report.summary
    assert "samples lie nearer to targets than real maps do" in report.summary


def test_one_copy_among_fresh_maps_is_named() -> None:
    samples = field(100, 3)
    samples[41] = torch.rot90(field(32, 1)[9], 1, (-2, -1))
    report = check(samples)
    first = report.closest[0]
    assert (first.sample, first.target, first.element, first.distance) == (41, 9, 1, 0.0)
    assert report.near_copies == 1 and "1 sample is a copy of a target" in report.summary


def test_the_least_typical_sample_is_the_foreign_one() -> None:
    samples = field(100, 3)
    samples[17] = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert check(samples).least_typical[0] == 17


def test_the_report_is_a_function_of_maps_and_root(same_distribution: EvaluationResult) -> None:
    again = check(field(200, 3))
    assert again.to_json() == same_distribution.to_json()


def test_the_record_is_json(same_distribution: EvaluationResult) -> None:
    record = json.loads(json.dumps(same_distribution.to_json(), allow_nan=False))
    assert list(record["scores"])[:2] == ["spectrum_error", "pixel_wasserstein"]
    assert all(row["inside"] for row in record["scores"].values())
    assert len(record["nearest_samples"]) == 200
    tests = record["tests"]
    assert [row["name"] for row in tests["families"]][-1] == "scattering"
    assert not any(row["rejected"] for row in tests["families"])
    assert tests["conclusive"] and tests["min_p"] > 0.05


def test_a_result_comes_back_from_json(same_distribution: EvaluationResult) -> None:
    """Exactly, infinite values included."""
    test = replace(same_distribution.tests.families[0], detectable_shift=math.inf)
    tests = replace(same_distribution.tests, families=(test,))
    result = replace(same_distribution, tests=tests)
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["tests"]["families"][0]["detectable_shift"] is None
    again = EvaluationResult.from_json(record)
    assert again.to_json() == record
    assert again.tests == tests and again.scores == result.scores
    assert again.nearest_samples.tolist() == result.nearest_samples.tolist()
    for broken in (None, {**record, "scores": 1}, {"summary": ""}):
        with pytest.raises(InputError, match="another version"):
            EvaluationResult.from_json(broken)


def test_physical_maps_have_the_scores_of_their_model_range() -> None:
    sizes = ((32, 1), (40, 2), (70, 3))
    fit, held_out, maps = (100 + 40 * field(n, seed).numpy() for n, seed in sizes)
    both = np.concatenate([fit, held_out])
    targets = TargetSet.from_arrays(
        both, unit="K", transform="asinh", symmetries=DIHEDRAL, held_out=len(held_out)
    )
    result = evaluate(maps, targets, progress=False)
    ranged = [torch.from_numpy(targets.transform.forward(v)) for v in (maps, fit, held_out)]
    same = evaluate_maps(*ranged, DIHEDRAL, Root.of("evaluate/0"), network=True)
    assert result.to_json() == same.to_json()
    assert isinstance(result.summary, str) and result.count == 70
    assert result.scores["fsd"].inside
    other = evaluate(maps, targets, seed=1, progress=False)
    assert other.scores["fsd"].value != result.scores["fsd"].value
    with pytest.raises(TargetError, match="shape"):
        evaluate(maps[..., :8], targets, progress=False)


def test_no_bar_is_shown_where_none_is_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    fit = field(8, 1).numpy()
    targets = TargetSet.from_arrays(np.concatenate([fit, field(8, 2).numpy()]))
    evaluate(fit, targets, progress=False)
    assert capsys.readouterr() == ("", "")


def test_few_maps_and_several_channels_still_give_scores() -> None:
    def two(n: int, seed: int) -> torch.Tensor:
        return torch.cat([field(n, seed), field(n, seed + 50)], dim=1)

    report = evaluate_maps(two(6, 1), two(5, 2), two(5, 3), (), Root(0))
    assert len(report.scores) == 6 and report.scores["coherence_error"].high < 1
    assert report.spectrum.samples.median.shape == (2, 8)


def test_sets_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(TargetError, match="at least 4"):
        check(field(10, 3), held_out=3)
    with pytest.raises(TargetError, match="shape"):
        check(field(10, 3, side=32))
    broken = field(10, 3)
    broken[2, 0, 0, 0] = torch.nan
    with pytest.raises(TargetError, match="1 samples maps"):
        check(broken)


def test_the_summary_names_the_excess() -> None:
    bad = Score("fsd", "FSD", 30.0, 8.0, 6.0, 10.0, "lower", "")
    far = Score("nearest_ratio", "ratio", 1.6, 1.0, 0.9, 1.1, "one", "")
    assert summarize(
        {"fsd": bad, "nearest_ratio": far}, CopySearch(), TwoSampleTests(2, 4, (), 1.0, None, ())
    ) == (
        "Outside the band: FSD (30 where real maps reach 10, 3.0 times it); no copy of a target"
        " is seen; samples lie further off than real maps do: the median distance to the nearest"
        " target is 1.60 times that of real maps (0.90 to 1.10); too few maps to test what was not"
        " steered."
    )


def test_dependent_maps_that_are_worth_too_few_have_no_band() -> None:
    bad = Score("fsd", "FSD", 30.0, 8.0, 6.0, 10.0, "lower", "")
    alike = TwoSampleTests(64, 64, (), 0.001, None, (), effective=9.0, block=8)
    said = summarize({"fsd": bad}, CopySearch(), alike)
    assert said.startswith("Too few independent maps to say what bands of real ones are; ")
    assert "FSD" not in said and "all are worth 9 independent ones" in said


def test_a_further_value_lies_beyond_as_often_as_the_level_says() -> None:
    """The `k`-th of `s` draws of a law is exceeded by a further one with `1 - k / (s + 1)`."""
    assert _quantiles([*range(1, 40)], (0.05, 0.5, 0.95)) == pytest.approx([2, 20, 38])
    assert _quantiles([*range(1, 20)], (0.95,)) == pytest.approx([19])


def test_the_summary_does_not_hide_samples_that_lie_too_near() -> None:
    """Far in pixels and near in statistics is still near, and said."""
    none = TwoSampleTests(2, 4, (), 1.0, None, ())
    near = MemorizationCheck("scattering", "scattering moments", 5.0, 0.01, 517, 1e-12)
    chance = MemorizationCheck("pixels", "pixels", 0.5, 0.01, 9, 0.6)
    said = "by scattering moments, 517 samples lie nearer to a target than 99 % of real maps do"
    found = summarize({}, CopySearch(), none, (chance, near))
    assert said in found.replace("By", "by", 1)
    assert "nearer to a target" not in summarize({}, CopySearch(), none, (chance,))
