"""Peaks: planted ones are counted, white noise and smooth Gaussian fields have their densities."""

import math

import pytest
import torch
from scipy.stats import norm

from ood_core.errors import TargetError
from ood_core.metrics.morphology import minimum_density, peak_density
from tests.oracles import fields

LEVELS = torch.tensor([-9.0, -0.5, 0.0, 1.0, 2.0])


def test_planted_peaks_are_counted_by_height() -> None:
    maps = torch.zeros(2, 2, 12, 14)
    maps[0, 0, 3, 3], maps[0, 0, 3, 5], maps[0, 0, 8, 9] = 1.0, 2.0, 3.0
    maps[0, 1, 3, 3] = maps[0, 1, 4, 4] = 1.0  # a plateau has no peak
    maps[1, 0, 0, 5] = maps[1, 0, 11, 13] = 5.0  # nor has the edge
    maps[1, 1, 6, 6] = -2.0
    levels = torch.tensor([0.5, 1.0, 2.5, 3.0])
    pixels = 10 * 12
    peaks = peak_density(maps, levels) * pixels
    assert peaks[0, 0].tolist() == pytest.approx([3, 2, 1, 0])
    assert peaks.sum() == pytest.approx(6)
    minima = minimum_density(maps, -levels) * pixels
    assert minima[1, 1].tolist() == pytest.approx([1, 1, 0, 0])
    assert minima.sum() == pytest.approx(2)


def test_white_noise_has_one_peak_in_nine_pixels() -> None:
    maps = torch.from_numpy(fields.rng(0).standard_normal((200, 1, 32, 32)))
    found = peak_density(maps, LEVELS)[:, 0]
    expected = torch.from_numpy((1 - norm.cdf(LEVELS.numpy()) ** 9) / 9)
    error = found.std(0) / math.sqrt(200)
    assert ((found.mean(0) - expected).abs() < 5 * error).all()
    assert (error < 0.02 * expected).all()


def test_a_smooth_gaussian_field_has_the_peaks_of_longuet_higgins_and_bond_efstathiou() -> None:
    radius, count = 3.0, 60
    s0, s1, s2 = fields.moments(128, fields.smooth(radius))
    maps = torch.from_numpy(fields.gaussian(count, 128, fields.smooth(radius), 1))
    maps = (maps - maps.mean((-2, -1), keepdim=True)) / s0
    levels = torch.tensor([-9.0, 0.0, 1.0])
    found = peak_density(maps, levels)[:, 0]
    assert fields.peaks_above(-9, s0, s1, s2) == pytest.approx(fields.all_peaks(s1, s2), rel=1e-6)
    expected = torch.tensor([fields.peaks_above(float(v), s0, s1, s2) for v in levels])
    # Besides chance, the grid misses peaks that are flatter than a pixel: by 0.22 R^-2, seen to
    # fall so between R = 2 and 4.
    error = found.std(0) / math.sqrt(count)
    assert ((found.mean(0) - expected).abs() < 5 * error + 0.3 / radius**2 * expected).all()
    assert (5 * error < 0.05 * expected).all()


def test_minima_of_a_map_are_peaks_of_its_negative() -> None:
    maps = torch.from_numpy(fields.rng(1).standard_normal((2, 1, 16, 16)))
    assert minimum_density(maps, LEVELS).equal(peak_density(-maps, -LEVELS))
    assert (peak_density(maps, LEVELS).diff(dim=-1) <= 0).all()
    assert (minimum_density(maps, LEVELS).diff(dim=-1) >= 0).all()


def test_turns_change_nothing_and_small_maps_are_refused() -> None:
    maps = torch.from_numpy(fields.rng(2).standard_normal((2, 1, 16, 12)))
    turned = peak_density(maps.rot90(1, (-2, -1)), LEVELS)
    torch.testing.assert_close(turned, peak_density(maps, LEVELS))
    with pytest.raises(TargetError):
        peak_density(torch.zeros(1, 1, 2, 8), LEVELS)
