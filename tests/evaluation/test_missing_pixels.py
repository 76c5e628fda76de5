"""Pixels that targets miss move no score, whatever they were filled with."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ood_core.config.targets import MissingSpec
from ood_core.evaluation.evaluate import evaluate_maps
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.results import EvaluationResult
from ood_core.evaluation.streaming import pixel_distance, pixel_fractions
from ood_core.maps.target_set import TargetSet
from ood_core.metrics.spectra import spectrum_distance
from ood_core.numerics.random import Root
from ood_core.store.statistics import feature_extractor, features_of

FIT, HELD, SAMPLES, SIDE = 32, 64, 128, 16


def field(n: int, seed: int) -> torch.Tensor:
    """Log-normal field with a k^-3 spectrum, about unit spread."""
    white = torch.randn(n, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    ky, kx = torch.fft.fftfreq(SIDE)[:, None], torch.fft.fftfreq(SIDE)[None]
    slope = torch.hypot(ky, kx).clamp(min=1 / SIDE) ** -1.5
    smooth = torch.fft.ifft2(torch.fft.fft2(white) * slope).real
    return torch.exp(0.5 * smooth / smooth.std())


def holes(n: int) -> NDArray[np.bool_]:
    """A square of 6 x 6 pixels, 14 % of a map, at a place of each map's own."""
    rng = np.random.default_rng(5)
    missing = np.zeros((n, 1, SIDE, SIDE), bool)
    for plane in missing[:, 0]:
        y, x = rng.integers(SIDE - 6, size=2)
        plane[y : y + 6, x : x + 6] = True
    return missing


MISSING = holes(FIT + HELD)


def extractor(fill: float, *, left_out: bool = True) -> FeatureExtractor:
    """By targets whose holes were filled with a constant."""
    targets = field(FIT + HELD, 1).masked_fill(torch.from_numpy(MISSING), fill)
    return FeatureExtractor.of(targets[:FIT], targets[FIT:], (), MISSING if left_out else None)


def judged(fill: float) -> EvaluationResult:
    found = extractor(fill)
    return evaluate_maps(field(SAMPLES, 3), found.fit, found.held_out, (), Root(7), missing=MISSING)


def distances(samples: torch.Tensor, found: FeatureExtractor) -> tuple[float, float]:
    """Of power spectra, and of pixel values in standard deviations."""
    own, real = found.extract(samples), found.extract(found.held_out)
    pixels = [pixel_fractions(features, found).mean(0) for features in (own, real)]
    return spectrum_distance(own["power"], real["power"]), pixel_distance(*pixels, found)


@pytest.fixture(scope="module")
def law() -> EvaluationResult:
    return judged(0.0)


def test_whole_samples_of_the_law_of_masked_targets_are_inside_every_band(
    law: EvaluationResult,
) -> None:
    assert {name for name, score in law.scores.items() if not score.inside} == set()
    assert min(test.adjusted for test in law.tests.families if test.adjusted is not None) > 0.01


def test_a_wrong_fill_moves_no_score_test_or_curve(law: EvaluationResult) -> None:
    other = judged(40.0)
    assert other.scores == law.scores
    assert other.tests.families == law.tests.families
    assert other.spectrum.real.median.equal(law.spectrum.real.median)
    assert other.histogram.real.median.equal(law.histogram.real.median)


def test_where_they_count_a_wrong_fill_makes_the_law_another(law: EvaluationResult) -> None:
    bands = [law.scores[name].high for name in ("spectrum_error", "pixel_wasserstein")]
    true, other = field(SAMPLES, 3), field(SAMPLES, 3) ** 2
    for samples, left_out, inside in (
        (true, True, True),
        (true, False, False),
        (other, True, False),
    ):
        found = distances(samples, extractor(40.0, left_out=left_out))
        assert [d <= band for d, band in zip(found, bands, strict=True)] == [inside] * 2


def test_fractions_are_of_pixels_that_are_there() -> None:
    """By hand, and also where the rest of the map is beyond the edges."""
    maps = field(FIT + HELD, 1)
    found = FeatureExtractor.of(maps[:FIT], maps[FIT:], (), MISSING)
    rows = pixel_fractions(found.extract(maps[FIT:]), found)
    for values, gone, row in zip(maps[FIT:, 0], MISSING[FIT:, 0], rows[:, 0], strict=True):
        there = values[~torch.from_numpy(gone)].double()
        by_hand = (there[:, None] <= found.edges[0]).double().mean(0)
        assert (row[:-2] - by_hand).abs().max() <= 0.5 / SIDE**2 + 1e-6  # counts are whole


def test_power_keeps_its_level_where_pixels_are_missing() -> None:
    """Of white noise the pseudo-spectrum is right on average, to the mean that is taken away."""
    noise = torch.randn(200, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    found = FeatureExtractor.of(noise[:100], noise[100:], (), holes(200))
    power = found.extract(noise[100:])["power"].mean()
    modes = 100 * SIDE**2 / 2
    assert abs(float(power) - 1) < 4 * (2 / modes) ** 0.5 + 1 / (SIDE**2 - 36)


def test_a_shard_is_measured_as_its_samples_are_in_the_whole_set() -> None:
    """Which pixels a sample is measured without depends on its number alone."""
    values = field(FIT + HELD, 1).numpy()
    holed = np.where(MISSING, np.nan, values)
    targets = TargetSet.from_arrays(
        holed, held_out=HELD, missing=MissingSpec(fill="nearest", limit=0.2)
    )
    extractor, samples = feature_extractor(targets), field(HELD + 20, 3).numpy()
    numbers = np.arange(len(samples))
    whole = features_of(extractor, targets, {"sample": numbers, "maps": samples})
    part = slice(HELD - 3, HELD + 9)  # goes round the held-out maps
    shard = features_of(extractor, targets, {"sample": numbers[part], "maps": samples[part]})
    first = features_of(extractor, targets, {"sample": numbers[:12], "maps": samples[part]})
    assert (shard["pixels"] == whole["pixels"][part]).all()
    for name, rows in shard.items():
        torch.testing.assert_close(rows, whole[name][part], rtol=1e-4, atol=1e-5)
    assert (first["pixels"] != whole["pixels"][part]).any()
