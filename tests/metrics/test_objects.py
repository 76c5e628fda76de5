"""Shapes of objects against closed forms: Gaussians, Sérsic and uniform discs."""

import math

import numpy as np
import pytest
import torch
from scipy.special import gammainc, gammaincinv

from ood_core.errors import TargetError
from ood_core.metrics.objects import (
    asymmetry,
    concentration,
    ellipticity,
    flux,
    has_objects,
    m20,
    object_features,
    rings,
)
from tests.strategies import randn

SIDE = 64


def gaussian(
    sigma: float, ratio: float = 1.0, angle: float = 0.0, side: int = SIDE
) -> torch.Tensor:
    """Gaussian of widths `sigma` along `angle` and `ratio sigma` across, one at the middle."""
    y, x = np.indices((side, side)) - (side - 1) / 2
    along = x * math.cos(angle) + y * math.sin(angle)
    across = y * math.cos(angle) - x * math.sin(angle)
    bell = np.exp(-(along**2 + (across / ratio) ** 2) / (2 * sigma**2))
    return torch.from_numpy(bell)[None, None]


def sersic(index: float, half_light: float, side: int = 96, fine: int = 9) -> torch.Tensor:
    """Sérsic law of total flux 1, integrated over pixels."""
    scale = gammaincinv(2 * index, 0.5)
    points = (np.arange(side * fine) + 0.5) / fine - side / 2
    r = np.hypot(points[:, None], points)
    light = np.exp(-scale * (r / half_light) ** (1 / index))
    pixels = light.reshape(side, fine, side, fine).mean((1, 3))
    total = 2 * np.pi * index * half_light**2 * math.gamma(2 * index) / scale ** (2 * index)
    return torch.from_numpy(pixels / total)[None, None]


def test_pixels_are_split_between_rings_without_loss() -> None:
    parts = rings(11, 14)
    assert parts.shape == (5, 11, 14)
    assert parts.sum(0).max() <= 1 and parts.sum(0)[5, 7] == 1
    areas = torch.tensor([math.pi * (2 * j + 1) for j in range(5)]).double()
    # 256 points a pixel, of which some 100 lie within a spacing of the first circle: by chance
    # sqrt(100) of 804 are on the wrong side.
    torch.testing.assert_close(parts.sum((1, 2)), areas, rtol=0.02, atol=0)


def test_a_gaussian_has_its_flux() -> None:
    sigma = 5.0
    maps = torch.cat([gaussian(sigma), 3 * gaussian(sigma)])
    inside = 2 * math.pi * sigma**2 * (1 - math.exp(-(32**2) / (2 * sigma**2)))
    assert flux(maps)[:, 0].tolist() == pytest.approx([inside, 3 * inside], rel=1e-6)


def test_a_gaussian_has_its_concentration_at_every_width() -> None:
    # r^2 = -2 sigma^2 ln(1 - part). Light that is even in a ring is off in r^2 by its curvature,
    # (2 r + 1)^2 / (16 sigma^2), or 0.27 (1 + 1 / 2r)^2 / sigma^2 in C; split pixels add 0.01.
    expected = 5 * math.log10(math.sqrt(math.log(5) / math.log(1.25)))
    for sigma in (3.0, 5.0, 8.0):
        assert float(concentration(gaussian(sigma))) == pytest.approx(
            expected, abs=0.4 / sigma**2 + 0.01
        )


@pytest.mark.parametrize("index", [0.5, 1.0, 2.0])
def test_a_sersic_disc_has_its_concentration(index: float) -> None:
    half_light = 10.0
    scale = gammaincinv(2 * index, 0.5)
    inside = gammainc(2 * index, scale * (48 / half_light) ** (1 / index))
    r80, r20 = (gammaincinv(2 * index, part * inside) ** index for part in (0.8, 0.2))
    maps = sersic(index, half_light)
    assert float(flux(maps)) == pytest.approx(inside, rel=1e-3)
    # As for a Gaussian, with r_20 of 3.8 pixels in place of 3 sigma or more.
    assert float(concentration(maps)) == pytest.approx(5 * math.log10(r80 / r20), abs=0.03)


def test_a_uniform_disc_has_the_concentration_of_two() -> None:
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    disc = torch.from_numpy((np.hypot(y, x) < 20).astype(np.float64))[None, None]
    assert float(concentration(disc)) == pytest.approx(5 * math.log10(2), abs=0.03)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 120])
def test_an_elliptical_gaussian_has_its_axis_ratio_and_angle(degrees: int) -> None:
    ratio, angle = 0.6, math.radians(degrees)
    size = (1 - ratio**2) / (1 + ratio**2)
    e1, e2 = ellipticity(gaussian(5.0, ratio, angle))[0, 0].tolist()
    # What lies beyond 32 pixels, 6.4 sigma, is below 1e-8 of the moments.
    assert e1 == pytest.approx(size * math.cos(2 * angle), abs=1e-6)
    assert e2 == pytest.approx(size * math.sin(2 * angle), abs=1e-6)


def test_an_offset_is_no_ellipticity_and_brightness_no_shape() -> None:
    maps = gaussian(4.0, 0.7, 0.3)
    torch.testing.assert_close(
        ellipticity(maps.roll((2, -3), (-2, -1))), ellipticity(maps), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(ellipticity(7 * maps), ellipticity(maps))
    torch.testing.assert_close(concentration(7 * maps), concentration(maps))


def test_maps_and_channels_are_separate() -> None:
    maps = torch.cat([gaussian(3.0, 0.5), gaussian(5.0, 0.8)])
    both = torch.cat([maps, maps.flip(0)], dim=1)
    torch.testing.assert_close(ellipticity(both)[0, 1], ellipticity(maps)[1, 0])
    torch.testing.assert_close(concentration(both)[1, 1], concentration(maps)[0, 0])


def test_no_light_has_no_shape_and_small_maps_are_refused() -> None:
    dark = torch.cat([torch.zeros(1, 1, 8, 8), -torch.ones(1, 1, 8, 8)])
    assert concentration(dark).isnan().all() and ellipticity(dark).isnan().all()
    with pytest.raises(TargetError):
        flux(torch.zeros(1, 1, 3, 8))


def test_a_symmetric_object_has_no_asymmetry_and_half_an_object_all() -> None:
    whole = gaussian(5.0, 0.5, 0.7)
    assert float(asymmetry(whole)) == pytest.approx(0, abs=1e-12)
    half = whole.clone()
    half[..., SIDE // 2 :] = 0
    assert float(asymmetry(half)) == pytest.approx(1)  # no pixel has light where its other has


def test_m20_of_a_gaussian_and_of_a_double_source() -> None:
    """Of a Gaussian the brightest fifth lies within r^2 = -2 ln(0.8) sigma^2, which holds
    1 - 0.8 (1 - ln 0.8) of the second moment; whole pixels move its edge by less than 0.03 in the
    logarithm. Of two equal points the first has half of it.
    """
    share = 1 - 0.8 * (1 - math.log(0.8))
    assert float(m20(gaussian(6.0))) == pytest.approx(math.log10(share), abs=0.03)
    double = torch.zeros(1, 1, SIDE, SIDE)
    double[..., 20, 32] = double[..., 44, 32] = 1
    assert float(m20(double)) == pytest.approx(math.log10(0.5))


def test_shapes_are_those_of_turned_and_mirrored_maps() -> None:
    maps = gaussian(4.0, 0.6, 0.4, 32) + 0.3 * gaussian(2.0, 1.0, 0.0, 32).roll((3, 5), (2, 3))
    for other in (maps.rot90(1, (2, 3)), maps.flip(3), 3 * maps + 7):
        torch.testing.assert_close(object_features(other), object_features(maps))
    assert object_features(torch.zeros(2, 3, 32, 32)).tolist() == [[0.0] * 15] * 2


def test_shapes_tell_sizes_and_only_cut_outs_have_objects() -> None:
    """Negative controls: noise anywhere, and objects that lie off the middle."""
    noise = 0.1 * randn(48, 1, 32, 32, seed=3)
    small, large = gaussian(3.0, side=32) + noise, gaussian(4.0, side=32) + noise
    difference = object_features(large)[:, 0] - object_features(small)[:, 0]
    assert 0.1 < float(difference.mean()) < math.log(4 / 3)  # noise has light of its own
    assert has_objects(small)
    assert not has_objects(noise)
    assert not has_objects(gaussian(3.0, side=32).roll(13, 3) + noise)
