"""Geodesics, exp and log maps, transport and means on the sphere, against their closed forms.

All is float64. A handful of roundings of numbers of order one leaves 1e-14; arcs and their lengths
come from square roots of such numbers where points are near, hence 1e-7 there.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.numerics.sphere import (
    angle,
    coordinates,
    exp_map,
    frechet_mean,
    geodesic,
    log_map,
    project,
    transport,
)
from tests.strategies import randn, repeatable

ROUNDING = 1e-12


def points(n: int, d: int, seed: int) -> torch.Tensor:
    rows = randn(n, d, seed=seed)
    return rows / rows.norm(dim=1, keepdim=True)


def tangents(at: torch.Tensor, seed: int, length: float) -> torch.Tensor:
    rows = randn(*at.shape, seed=seed)
    rows = rows - (rows * at).sum(1, keepdim=True) * at
    return length * rows / rows.norm(dim=1, keepdim=True)


cases = st.tuples(st.integers(2, 40), st.integers(0, 10**6))


@repeatable
@given(cases, st.floats(1e-3, 3.1))
def test_log_map_undoes_exp_map(case: tuple[int, int], length: float) -> None:
    d, seed = case
    a = points(5, d, seed)
    v = tangents(a, seed + 1, length)
    b = exp_map(a, v)
    torch.testing.assert_close(b.norm(dim=1), torch.ones(5).double(), rtol=0, atol=ROUNDING)
    # Near the antipode a direction is known to rounding over the distance left, pi - 3.1 = 0.04.
    torch.testing.assert_close(log_map(a, b), v, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        angle(a, b), torch.full((5,), length, dtype=torch.float64), rtol=0, atol=1e-10
    )


@repeatable
@given(cases)
def test_exp_map_undoes_log_map_which_is_tangent(case: tuple[int, int]) -> None:
    d, seed = case
    a, b = points(5, d, seed), points(5, d, seed + 1)
    v = log_map(a, b)
    assert float((v * a).sum(1).abs().max()) < 1e-8  # 1e-14 over the sine of the nearest arc
    torch.testing.assert_close(exp_map(a, v), b, rtol=0, atol=1e-8)


def test_geodesics_are_slerp_at_even_pace() -> None:
    a, b = points(4, 7, 1), points(4, 7, 2)
    theta = torch.arccos((a * b).sum(1))[:, None]
    for share in (0.0, 0.15, 0.5, 1.0):
        sines = torch.sin((1 - share) * theta) * a + torch.sin(share * theta) * b
        torch.testing.assert_close(
            geodesic(a, b, share), sines / torch.sin(theta), rtol=0, atol=ROUNDING
        )
        torch.testing.assert_close(
            angle(a, geodesic(a, b, share)), share * theta[:, 0], rtol=0, atol=1e-7
        )


@repeatable
@given(cases)
def test_transport_keeps_inner_products_and_tangency(case: tuple[int, int]) -> None:
    d, seed = case
    a, b = points(3, d, seed), points(3, d, seed + 1)
    v, w = tangents(a, seed + 2, 1.3), tangents(a, seed + 3, 0.4)
    moved_v, moved_w = transport(v, a, b), transport(w, a, b)
    # 1 + a.b of three random pairs is above 1e-6 for these seeds, so 1e-15 grows to 1e-9.
    torch.testing.assert_close((moved_v * moved_w).sum(1), (v * w).sum(1), rtol=0, atol=1e-8)
    torch.testing.assert_close(moved_v.norm(dim=1), v.norm(dim=1), rtol=0, atol=1e-8)
    assert float((moved_v * b).sum(1).abs().max()) < 1e-8
    torch.testing.assert_close(transport(moved_v, b, a), v, rtol=0, atol=1e-8)


def test_a_geodesics_own_direction_stays_its_own() -> None:
    a, b = points(4, 9, 3), points(4, 9, 4)
    torch.testing.assert_close(
        transport(log_map(a, b), a, b), -log_map(b, a), rtol=0, atol=ROUNDING
    )


def test_transport_along_a_triangle_turns_by_its_area() -> None:
    """Gauss-Bonnet: around an octant, of area pi/2, a tangent comes back at a right angle."""
    x, y, z = torch.eye(3, dtype=torch.float64).split(1)
    v = y  # tangent at x
    around = transport(transport(transport(v, x, y), y, z), z, x)
    torch.testing.assert_close(around, z, rtol=0, atol=ROUNDING)


def test_from_latents_at_right_angles_every_transported_arc_ends_at_the_same_place() -> None:
    """Why directions of white latents are not shared by transport: they lead to the end itself."""
    a, b, c = torch.eye(5, dtype=torch.float64)[:3].split(1)
    torch.testing.assert_close(exp_map(c, transport(log_map(a, b), a, c)), b, rtol=0, atol=ROUNDING)


def test_the_mean_of_two_is_halfway_and_of_many_has_no_mean_log_map() -> None:
    a, b = points(1, 6, 5), points(1, 6, 6)
    middle = (a + b) / (a + b).norm()
    torch.testing.assert_close(frechet_mean(torch.cat([a, b]))[None], middle, rtol=0, atol=1e-10)
    many = points(12, 300, 7)
    mean = frechet_mean(many)[None].expand_as(many)
    assert float(log_map(mean, many).mean(0).norm()) < 1e-10
    # Negative control: the normalised mean is not it.
    plain = many.mean(0) / many.mean(0).norm()
    skewed = torch.cat([many, many[:1].expand(5, -1)])
    assert float(log_map(plain.expand_as(skewed), skewed).mean(0).norm()) > 1e-3


def test_the_mean_turns_with_the_points_and_is_the_least_sum_of_squares() -> None:
    some = points(8, 20, 8)
    turn = torch.linalg.qr(randn(20, 20, seed=9))[0]
    torch.testing.assert_close(frechet_mean(some @ turn), frechet_mean(some) @ turn)
    mean = frechet_mean(some)[None]

    def squares(at: torch.Tensor) -> float:
        return float((angle(at.expand_as(some), some) ** 2).sum())

    aside = exp_map(mean.expand(6, -1), tangents(mean.expand(6, -1), 10, 0.01))
    assert all(squares(point[None]) > squares(mean) for point in aside)


@pytest.mark.parametrize(("n", "d"), [(5, 40), (40, 5)])
def test_coordinates_keep_all_angles(n: int, d: int) -> None:
    some = points(n, d, 11)
    inner, basis = coordinates(some)
    assert inner.shape == (n, min(n, d))
    torch.testing.assert_close(inner @ inner.T, some @ some.T)
    torch.testing.assert_close(inner @ basis.T, some)


def test_projection_gives_directions_and_norms() -> None:
    found, norms = project(torch.tensor([[3.0, 4.0]]).reshape(1, 1, 1, 2))
    assert found.tolist() == [[0.6, 0.8]] and norms.tolist() == [5.0]
    assert float(angle(found, -found)) == pytest.approx(math.pi)
