"""Minkowski functionals of discs, rings and Gaussian fields, and against labelled pieces."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.stats import multivariate_normal, norm

from ood_core.errors import TargetError
from ood_core.metrics.morphology import minkowski
from tests.oracles import fields

HALF = torch.tensor([0.5])


def counts(maps: torch.Tensor) -> torch.Tensor:
    """Boundary length and Euler characteristic of the set above one half, of whole maps."""
    squares = (maps.shape[-2] - 1) * (maps.shape[-1] - 1)
    return minkowski(maps, HALF)[..., 1:, 0] * torch.tensor([4.0, 1.0]).double() * squares


def discs(*circles: tuple[float, float, float], side: int = 128) -> torch.Tensor:
    y, x = np.indices((side, side))
    inside = [np.hypot(y - cy, x - cx) < r for cy, cx, r in circles]
    return torch.from_numpy(np.logical_xor.reduce(inside).astype(np.float64))[None, None]


def test_a_disc_has_its_area_circumference_and_one_piece() -> None:
    radius = 40.3
    disc = discs((63.2, 64.1, radius))
    length, euler = counts(disc)[0, 0].tolist()
    # A boundary of 250 pixels, each off by a part of one at random: area to sqrt(250) / 4 pixels.
    assert float(minkowski(disc, HALF)[0, 0, 0, 0]) * 128**2 == pytest.approx(
        math.pi * radius**2, abs=5 * math.sqrt(2 * math.pi * radius) / 4
    )
    # Crofton's formula with four directions is exact for a circle but for whole pixels: every one
    # of the 4 extremes is off by less than one pixel in 2 radius.
    assert length == pytest.approx(2 * math.pi * radius, rel=1 / radius)
    assert euler == pytest.approx(1)


def test_pieces_count_up_and_holes_down() -> None:
    ring = discs((40, 40, 30), (40, 40, 12))
    pair = discs((40, 40, 20), (90, 90, 20))
    holes = discs((60, 60, 50), (50, 40, 8), (60, 80, 8), (85, 60, 8))
    for maps, expected in ((ring, 0), (pair, 2), (holes, -2), (1 - holes, 2)):
        assert float(counts(maps)[0, 0, 1]) == pytest.approx(expected)
    assert float(counts(ring)[0, 0, 0]) == pytest.approx(2 * math.pi * 42, rel=2 / 42)


def test_euler_is_the_mean_of_labelled_pieces_minus_holes() -> None:
    rough = fields.rng(0).random((20, 1, 16, 16)) > 0.55
    rough[..., [0, -1], :] = rough[..., [0, -1]] = False
    expected = []
    for above in rough[:, 0]:
        both = []
        for four, eight in ((True, False), (False, True)):
            pieces = ndimage.label(above, np.ones((3, 3)) if eight else None)[1]
            holes = ndimage.label(~above, np.ones((3, 3)) if four else None)[1] - 1
            both.append(pieces - holes)
        expected.append(np.mean(both))
    found = counts(torch.from_numpy(rough.astype(np.float64)))[:, 0, 1]
    torch.testing.assert_close(found, torch.tensor(expected).double())
    assert len(set(expected)) > 5


def test_a_straight_edge_has_its_length() -> None:
    # Along the axes the four directions give (1 + 2^1/2) pi / 8 = 0.948; along a diagonal the same.
    y, x = torch.meshgrid(torch.arange(33), torch.arange(33), indexing="ij")
    edge = (x > 16).double()[None, None]
    part = (1 + math.sqrt(2)) * math.pi / 8
    assert part == pytest.approx(0.948, abs=1e-3)
    assert float(counts(edge)[0, 0, 0]) == pytest.approx(32 * part)
    # On the slope 32 squares have one pixel above it; beside it, 31 squares have three.
    slope = (x > y).double()[None, None]
    expected = (32 + 31) * (1 + math.sqrt(0.5)) * math.pi / 8
    assert float(counts(slope)[0, 0, 0]) == pytest.approx(expected)
    assert expected == pytest.approx(part * 32 * math.sqrt(2), rel=1 / 32)


def orthant(level: float, covariance: np.ndarray) -> float:
    """Probability that all pixels with this covariance lie above a level."""
    draws = multivariate_normal(cov=covariance, seed=0, abseps=1e-5, releps=1e-5)
    return float(draws.cdf(np.full(len(covariance), -level)))


@pytest.mark.parametrize("radius", [0.0, 0.8])
def test_a_rough_gaussian_field_has_the_functionals_of_its_pixels(radius: float) -> None:
    # Exact at any roughness, from probabilities of two and four neighbouring pixels: boundary by
    # pairs that differ, Euler as the mean of vertices - edges + faces of both connectivities.
    side, count, levels = 32, 300, torch.tensor([-1.0, 0.0, 0.7, 1.5])
    law = fields.correlation(side, fields.smooth(radius))
    law = law / law[0, 0]
    scale = math.sqrt(fields.correlation(side, fields.smooth(radius))[0, 0])
    maps = torch.from_numpy(fields.gaussian(count, side, fields.smooth(radius), 3)) / scale
    found = minkowski(maps, levels)[:, 0]
    places = [(0, 0), (0, 1), (1, 0), (1, 1)]
    square = np.array([[law[a - c, b - d] for c, d in places] for a, b in places])
    expected = np.zeros((3, len(levels)))
    for i, level in enumerate(levels.tolist()):
        above = norm.sf(level)
        beside, across = (orthant(level, square[np.ix_(p, p)]) for p in ([0, 1], [0, 3]))
        differ = 2 * (above - beside), 2 * (above - across)
        length = math.pi / 8 * (2 * differ[0] + 2 * differ[1] / math.sqrt(2))
        four = above - 2 * beside + orthant(level, square)
        any_two, any_four = 1 - orthant(-level, square[:2, :2]), 1 - orthant(-level, square)
        eight = above - 2 * any_two + any_four
        expected[:, i] = above, length / 4, (four + eight) / 2
    error = found.std(0) / math.sqrt(count) + 1e-5  # of the integration
    assert ((found.mean(0) - torch.from_numpy(expected)).abs() < 5 * error).all()
    assert (found.mean(0)[1] > 20 * error[1]).all()


def test_a_smooth_gaussian_field_has_tomitas_functionals() -> None:
    radius, count = 3.0, 60
    s0, s1, _ = fields.moments(128, fields.smooth(radius))
    maps = torch.from_numpy(fields.gaussian(count, 128, fields.smooth(radius), 1))
    maps = (maps - maps.mean((-2, -1), keepdim=True)) / s0
    levels = torch.tensor([-1.5, 0.0, 1.0, 2.0])
    found = minkowski(maps, levels)[:, 0]
    expected = torch.from_numpy(fields.tomita(levels.numpy(), s0, s1))
    # Besides chance, pixels cut corners: by some 0.1 R^-2 of the largest value.
    error = 5 * found.std(0) / math.sqrt(count)
    largest = expected.abs().amax(1, keepdim=True)
    assert ((found.mean(0) - expected).abs() < error + 0.1 / radius**2 * largest).all()
    assert (error < 0.1 * largest).all()


def test_complement_and_turns() -> None:
    maps = torch.from_numpy(fields.rng(4).standard_normal((3, 2, 12, 15)))
    levels = torch.tensor([-0.5, 0.0, 0.5])
    area, length, euler = minkowski(maps, levels).unbind(2)
    other = minkowski(-maps, -levels)
    torch.testing.assert_close(other, torch.stack([1 - area, length, -euler], dim=2))
    torch.testing.assert_close(minkowski(maps.rot90(1, (-2, -1)), levels), minkowski(maps, levels))


def test_a_single_row_is_refused() -> None:
    with pytest.raises(TargetError):
        minkowski(torch.zeros(1, 1, 1, 8), HALF)
