"""Evidence: the same law lies inside the real band, and each planted fault falls outside it."""

import json

import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.evaluation.evaluate import ValidationReport, validate
from ood_core.evaluation.results import CopyCheck, Judgement, Score
from ood_core.evaluation.summary import verdict

DIHEDRAL: tuple[Symmetry, ...] = ("flip", "rotate90")


def field(n: int, seed: int, side: int = 16) -> torch.Tensor:
    """Log-normal field with a k^-3 spectrum, about unit spread."""
    white = torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))
    ky, kx = torch.fft.fftfreq(side)[:, None], torch.fft.fftfreq(side)[None]
    slope = torch.hypot(ky, kx).clamp(min=1 / side) ** -1.5
    smooth = torch.fft.ifft2(torch.fft.fft2(white) * slope).real
    return torch.exp(0.5 * smooth / smooth.std()) - 1.1


def check(samples: torch.Tensor, held_out: int = 80) -> ValidationReport:
    return validate(samples, field(32, 1), field(held_out, 2), DIHEDRAL, root=7)


@pytest.fixture(scope="module")
def same_law() -> ValidationReport:
    return check(field(200, 3))


def test_the_same_law_lies_inside_every_band(same_law: ValidationReport) -> None:
    assert {score.name: score.inside for score in same_law.scores} == {
        "spectrum_error": True,
        "pixel_wasserstein": True,
        "fsd": True,
        "c2st": True,
        "nearest_ratio": True,
    }
    assert same_law.copies == 0
    assert "no copying is seen" in same_law.verdict and "outside" not in same_law.verdict
    assert "shows no difference that so many maps could reveal" in same_law.verdict


def test_every_band_holds_its_own_median(same_law: ValidationReport) -> None:
    assert all(score.low <= score.real <= score.high for score in same_law.scores)


def test_blurred_maps_fall_outside_the_spectrum_band() -> None:
    samples = field(200, 3)
    blurred = (
        samples + samples.roll(1, -1) + samples.roll(1, -2) + samples.roll((1, 1), (-2, -1))
    ) / 4
    report = check(blurred)
    assert not report.score("spectrum_error").inside
    assert not report.score("fsd").inside
    assert report.score("c2st").value > 0.9
    assert "outside" in report.verdict


def test_a_shifted_brightness_falls_outside_the_pixel_band() -> None:
    report = check(field(200, 3) + 0.5)
    assert not report.score("pixel_wasserstein").inside
    assert report.score("spectrum_error").inside


def test_copies_of_the_targets_are_called_copies() -> None:
    turned = torch.rot90(field(32, 1), 1, (-2, -1)).flip(-1)
    report = check(turned + 1e-3 * torch.randn(turned.shape))
    assert report.score("nearest_ratio").value < 0.02
    assert report.copies == 32
    assert "copy the targets" in report.verdict


def test_one_copy_among_fresh_maps_is_named() -> None:
    samples = field(100, 3)
    samples[41] = torch.rot90(field(32, 1)[9], 1, (-2, -1))
    report = check(samples)
    first = report.closest[0]
    assert (first.sample, first.target, first.element, first.distance) == (41, 9, 1, 0.0)
    assert report.copies == 1 and "1 near copy" in report.verdict


def test_the_least_typical_sample_is_the_foreign_one() -> None:
    samples = field(100, 3)
    samples[17] = torch.randn(1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert check(samples).worst[0] == 17


def test_the_report_is_a_function_of_maps_and_root(same_law: ValidationReport) -> None:
    again = check(field(200, 3))
    assert again.as_dict() == same_law.as_dict()


def test_the_record_is_json(same_law: ValidationReport) -> None:
    record = json.loads(json.dumps(same_law.as_dict(), allow_nan=False))
    assert [row["name"] for row in record["scores"]][:2] == ["spectrum_error", "pixel_wasserstein"]
    assert all(row["inside"] for row in record["scores"])
    assert len(record["nearest_samples"]) == 200
    judged = record["judgement"]
    assert [row["name"] for row in judged["families"]][-1] == "scattering"
    assert not any(row["rejected"] for row in judged["families"])
    assert judged["decided"] and judged["smallest_p"] > 0.05


def test_few_maps_and_several_channels_still_give_scores() -> None:
    def two(n: int, seed: int) -> torch.Tensor:
        return torch.cat([field(n, seed), field(n, seed + 50)], dim=1)

    report = validate(two(6, 1), two(5, 2), two(5, 3), (), root=0)
    assert len(report.scores) == 5 and report.spectrum.samples.median.shape == (2, 8)


def test_sets_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(TargetError, match="at least 4"):
        check(field(10, 3), held_out=3)
    with pytest.raises(TargetError, match="shape"):
        check(field(10, 3, side=32))
    broken = field(10, 3)
    broken[2, 0, 0, 0] = torch.nan
    with pytest.raises(TargetError, match="1 samples maps"):
        check(broken)


def test_the_verdict_names_the_excess() -> None:
    bad = Score("fsd", "FSD", 30.0, 8.0, 6.0, 10.0, "lower", "")
    far = Score("nearest_ratio", "ratio", 1.6, 1.0, 0.9, 1.1, "one", "")
    assert verdict((bad, far), 0, Judgement(2, 4, (), 1.0, None, ())) == (
        "Outside the band: FSD (30 where real maps reach 10, 3.0 times it); no copying is seen;"
        " samples lie further off than real maps do: the median distance to the nearest target is"
        " 1.60 times that of real maps; too few maps to test what was not steered."
    )


def test_the_verdict_does_not_hide_samples_that_lie_too_near() -> None:
    """Far in pixels and near in statistics is still near, and said."""
    none = Judgement(2, 4, (), 1.0, None, ())
    near = CopyCheck("statistic", "scattering moments", 5.0, 0.01, 517, 1e-12)
    chance = CopyCheck("shifted", "pixels", 0.5, 0.01, 9, 0.6)
    said = "by scattering moments, 517 samples lie nearer to a target than 99 % of real maps do"
    found = verdict((), 0, none, (chance, near))
    assert said in found.replace("By", "by", 1)
    assert "nearer to a target" not in verdict((), 0, none, (chance,))
