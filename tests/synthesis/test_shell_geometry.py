"""Shells of high dimension: measured numbers against closed forms at d = 3 * 256 * 256.

Standard errors: in `d` dimensions a radius spreads by sigma / sqrt(2), an angle by 1 / sqrt(d) rad
and a distance by sigma. Tolerances are 5 of these for single latents, unless said otherwise.
"""

import math

import pytest
import torch

from ood_core.synthesis.latents import (
    TESTS,
    Interval,
    ShellGeometry,
    pair_angles,
    shell_statistics,
)
from tests.oracles import geometry

D = 196_608
SIGMA, OFFSET = 0.975, 82.2  # of the published checkpoint's latents
ANGLE = math.degrees(1 / math.sqrt(D))


def draws(n: int, seed: int, sigma: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    noise = torch.randn(n, 3, 256, 256, generator=torch.Generator().manual_seed(seed))
    return sigma * noise + offset / math.sqrt(D)


@pytest.fixture(scope="module")
def unit() -> torch.Tensor:
    return draws(8, seed=1)


@pytest.fixture(scope="module")
def published() -> torch.Tensor:
    return draws(12, seed=2, sigma=SIGMA, offset=OFFSET)


def test_unit_gaussians_lie_on_a_shell_at_right_angles(unit: torch.Tensor) -> None:
    radius, distance, angle = shell_statistics(unit[:4], unit[4:])
    assert float((radius - geometry.radius(D)).abs().max()) < 5 / math.sqrt(2)
    assert float((distance - 627.07).abs().max()) < 5
    assert geometry.distance(D) == pytest.approx(627.07, abs=0.01)
    assert float((angle - 90).abs().max()) < 5 * ANGLE


def test_published_numbers_are_the_geometry_of_an_offset_shell(published: torch.Tensor) -> None:
    _, distance, angle = shell_statistics(published[:2], published[2:])
    # Mean of ten references; the latent's own part is shared, so its spread does not shrink.
    assert float((distance - 611.4).abs().max()) < 5 * SIGMA
    assert float((angle - 88.00).abs().max()) < 5 * ANGLE
    assert geometry.distance(D, SIGMA) == pytest.approx(611.4, abs=0.05)
    assert geometry.origin_angle(D, SIGMA, OFFSET) == pytest.approx(88.00, abs=0.01)


def test_triangles_of_independent_latents_have_equal_sides(published: torch.Tensor) -> None:
    a, b, c = published[:1], published[1:2], published[2:3]
    ab, bc, ca = (float(shell_statistics(p, q)[1, 0]) for p, q in ((a, b), (b, c), (c, a)))
    corner = math.degrees(math.acos((ab**2 + ca**2 - bc**2) / (2 * ab * ca)))
    assert corner == pytest.approx(60.0, abs=5 * ANGLE)


def test_plain_averages_fall_off_the_shell_and_variance_keeping_ones_do_not(
    unit: torch.Tensor,
) -> None:
    plain, keeping = (unit[0] + unit[1]) / 2, (unit[0] + unit[1]) / math.sqrt(2)
    radius = shell_statistics(torch.stack([plain, keeping]), unit[2:])[0] / math.sqrt(D)
    error = 5 / math.sqrt(2 * D)
    assert float(radius[0]) == pytest.approx(math.sqrt(0.5), abs=error)  # published as 0.706
    assert float(radius[1]) == pytest.approx(1.0, abs=error)  # published as 0.998


def test_the_spherical_midpoint_keeps_its_radius_but_not_its_angle(
    published: torch.Tensor,
) -> None:
    a, b = published[0].flatten().double(), published[1].flatten().double()
    theta = torch.arccos(a @ b / a.norm() / b.norm())
    middle = (a + b) * torch.sin(theta / 2) / torch.sin(theta)
    _, distance, angle = shell_statistics(middle.reshape(1, 3, 256, 256), published[2:])
    expected_distance, expected_angle = geometry.slerp_middle(D, SIGMA, OFFSET)
    assert float(distance) == pytest.approx(expected_distance, abs=5 * SIGMA)
    assert float(angle) == pytest.approx(expected_angle, abs=5 * ANGLE)
    assert (expected_distance, expected_angle) == pytest.approx((607.2, 87.2), abs=0.2)


def test_measured_intervals_accept_the_sampler_and_refuse_others(unit: torch.Tensor) -> None:
    small = draws(60, seed=3)[:, :, :16, :16]
    references, measured_on, fresh = small[:10], small[10:35], small[35:]
    measured = ShellGeometry.measure(measured_on, references)
    assert not bool(measured.refusals(fresh, references).any())
    averages, copies = (fresh[:-1] + fresh[1:]) / 2, references + 0.01 * fresh[:10]
    for other in (averages, 1.5 * fresh, copies):
        assert bool(measured.refusals(other, references).any(dim=0).all())


def test_intervals_are_closed_and_as_wide_as_asked() -> None:
    values = torch.tensor([0.9, 1.0, 1.5, 2.0, 2.1])
    assert Interval(1.0, 2.0).holds(values).tolist() == [False, True, True, True, False]
    some, references = torch.randn(50, 1, 8, 8), torch.randn(5, 1, 8, 8)
    radius = shell_statistics(some, references)[0]
    for widths in (1.0, 3.0):
        measured = ShellGeometry.measure(some, references, widths).radius
        assert measured.high - measured.low == pytest.approx(2 * widths * float(radius.std()))
        assert (measured.high + measured.low) / 2 == pytest.approx(float(radius.mean()))


def test_statistics_are_those_of_the_definition() -> None:
    z = torch.tensor([[3.0, 4.0]]).reshape(1, 1, 1, 2)
    references = torch.tensor([[0.0, 2.0], [-3.0, -4.0]]).reshape(2, 1, 1, 2)
    radius, distance, angle = shell_statistics(z, references)[:, 0].tolist()
    assert radius == pytest.approx(5)
    assert distance == pytest.approx((math.sqrt(13) + 10) / 2)
    assert angle == pytest.approx((math.degrees(math.acos(0.8)) + 180) / 2)


def test_pair_angles_are_those_of_the_triangles_and_leave_out_what_was_used() -> None:
    z = torch.zeros(2, 1, 1, 2)
    references = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]).reshape(3, 1, 1, 2)
    right, straight = 90.0, 180.0
    assert pair_angles(z, references).tolist() == [pytest.approx((2 * right + straight) / 3)] * 2
    used = torch.tensor([[True, False, False], [False, True, False]])
    assert pair_angles(z, references, used).tolist() == pytest.approx([right, straight])


def test_pairs_of_independent_latents_are_seen_at_sixty_degrees(published: torch.Tensor) -> None:
    angle = pair_angles(published[:2], published[2:])
    assert float((angle - 60).abs().max()) < 5 * ANGLE


def test_used_references_are_left_out_of_means() -> None:
    z, references = draws(3, seed=4)[:, :, :8, :8], draws(5, seed=5)[:, :, :8, :8]
    used = torch.tensor([[True, False, False, False, True]] + [[False] * 5] * 2)
    found = shell_statistics(z, references, used)
    torch.testing.assert_close(found[:, :1], shell_statistics(z[:1], references[1:4]))
    torch.testing.assert_close(found[:, 1:], shell_statistics(z[1:], references))


def test_published_intervals_are_those_of_the_latents_among_themselves() -> None:
    latents = draws(20, seed=6, sigma=SIGMA, offset=OFFSET)[:, :, :64, :64]
    measured = ShellGeometry.published(latents)
    assert measured.radius is None
    assert measured.distance is not None and measured.pair_angle is not None
    alone = [
        float(shell_statistics(latents[i : i + 1], torch.cat([latents[:i], latents[i + 1 :]]))[1])
        for i in range(20)
    ]
    values = torch.tensor(alone)
    middle = (measured.distance.low + measured.distance.high) / 2
    assert middle == pytest.approx(float(values.mean()))
    width = measured.distance.high - measured.distance.low
    assert width == pytest.approx(6 * float(values.std()), rel=1e-5)
    assert measured.pair_angle.low < 60 < measured.pair_angle.high
    itself = torch.eye(20, dtype=torch.bool)
    # Three standard deviations of 20 values hold all but outliers of one in some hundreds.
    assert float(measured.refusals(latents, latents, itself).any(0).float().mean()) <= 0.1
    refused = measured.refusals(1.2 * latents, latents, itself).float().mean(1)
    assert refused.tolist()[0] == 0.0  # a radius is not asked for
    assert refused.tolist()[TESTS.index("distance")] == 1.0
