"""Bispectra against closed forms: white noise, skewed pixels, planted waves, a quadratic field."""

import math

import numpy as np
import pytest
import torch

from ood_core.errors import TargetError
from ood_core.metrics.bispectrum import Shells, bispectrum
from tests.oracles import fields

EDGES = (1.0, 2.5, 4.5, 6.5, 8.0)
SIDE = 24


def skewed(n: int, f: float, seed: int = 0) -> torch.Tensor:
    """White `g + f (g^2 - 1)`, whose pixels have the third cumulant `6 f + 8 f^3`."""
    g = torch.from_numpy(fields.rng(seed).standard_normal((n, 1, SIDE, SIDE)))
    return g + f * (g**2 - 1)


def falling(k: np.ndarray) -> np.ndarray:
    """A power that is constant in every shell of `EDGES`, and 1 outside of them."""
    fundamentals = k * SIDE / (2 * np.pi)
    return np.array([1, 20, 10, 5, 2, 1.0])[np.digitize(fundamentals, EDGES)]


def counted_triangles(edges: tuple[float, ...], height: int, width: int) -> dict[tuple, int]:
    """Ordered pairs of modes whose sum, without wrapping, closes into a third shell."""
    side = min(height, width)
    ny, nx = np.indices((height, width)).reshape(2, -1)
    ny, nx = (ny + height // 2) % height - height // 2, (nx + width // 2) % width - width // 2
    scale = side / height, side / width
    shell = np.digitize(np.hypot(ny * scale[0], nx * scale[1]), edges) - 1
    inside = (shell >= 0) & (shell < len(edges) - 1)
    ny, nx, shell = ny[inside], nx[inside], shell[inside]
    third_y, third_x = -(ny[:, None] + ny), -(nx[:, None] + nx)
    third = np.digitize(np.hypot(third_y * scale[0], third_x * scale[1]), edges) - 1
    count: dict[tuple, int] = {}
    first, second = np.broadcast_arrays(shell[:, None], shell)
    for triple in zip(first.ravel(), second.ravel(), third.ravel(), strict=True):
        if tuple(sorted(triple)) == triple and triple[2] < len(edges) - 1:
            count[triple] = count.get(triple, 0) + 1
    return count


@pytest.mark.parametrize(("height", "width"), [(24, 24), (25, 24), (24, 31)])
def test_triangles_are_those_that_a_double_loop_counts(height: int, width: int) -> None:
    shells = Shells(height, width, EDGES)
    triples = [tuple(triple) for triple in shells.triples.tolist()]
    found = dict(zip(triples, shells.triangles.tolist(), strict=True))
    assert found == counted_triangles(EDGES, height, width)


def test_a_gaussian_field_has_none_within_its_derived_error() -> None:
    maps = torch.from_numpy(fields.gaussian(400, SIDE, falling, 1))
    found = bispectrum(maps, EDGES)
    pull = found.value.mean(0) / found.noise * math.sqrt(400)
    assert pull.abs().max() < 5
    # The spread of 400 values is known to 1 / sqrt(800), and more loosely for heavy tails: products
    # of three Gaussians over few triangles.
    ratio = found.value.std(0) / found.noise
    assert ((ratio > 0.8) & (ratio < 1.2)).all()


def test_white_skewed_pixels_have_their_third_cumulant_at_every_triangle() -> None:
    found = bispectrum(skewed(400, 0.3), EDGES)
    mean, error = found.value.mean(0), found.value.std(0) / math.sqrt(400)
    assert ((mean - (6 * 0.3 + 8 * 0.3**3)).abs() < 5 * error).all()
    assert ((mean > 5 * error).sum() > len(error[0]) / 2).item()  # the control: none is ruled out


def test_a_quadratic_field_has_its_tree_level_bispectrum() -> None:
    # B is a cubic in f for every map: its linear part is free of higher orders, and on average
    # 2 f (P1 P2 + P2 P3 + P3 P1), with the powers of g, that are constant in a shell.
    g = torch.from_numpy(fields.gaussian(300, SIDE, falling, 2))
    square = g**2 - float(fields.correlation(SIDE, falling)[0, 0])
    values = [bispectrum(g + f * square, EDGES).value for f in (-0.2, -0.1, 0.1, 0.2)]
    linear = (8 * (values[2] - values[1]) - (values[3] - values[0])) / 12 / 0.1
    plain = bispectrum(g, EDGES)
    p1, p2, p3 = torch.tensor([20.0, 10, 5, 2]).double()[plain.triples].unbind(-1)
    expected = 2 * (p1 * p2 + p2 * p3 + p3 * p1)
    error = linear.std(0) / math.sqrt(300)
    assert ((linear.mean(0) - expected).abs() < 5 * error).all()
    assert (expected > 5 * error).all()


def test_planted_waves_are_one_triangle() -> None:
    # cos a + cos b + cos (a + b), with wavevectors (2, 0), (0, 2), (2, 2): F = N / 2 at each, so
    # that F F F / N = N^2 / 8, for the 12 orders and signs of the one triangle.
    y, x = torch.meshgrid(2 * [torch.arange(SIDE).double()], indexing="ij")
    a, b = 2 * math.pi * 2 * x / SIDE, 2 * math.pi * 2 * y / SIDE
    wave = (torch.cos(a) + torch.cos(b) + torch.cos(a + b))[None, None]
    found = bispectrum(wave, (1.5, 2.5, 4.5))
    total = found.value[0, 0] * found.triangles
    # Of the orders, those with the sides in rising shells: the two short sides change places.
    expected = torch.where((found.triples == torch.tensor([0, 0, 1])).all(1), 4 * SIDE**4 / 8, 0)
    torch.testing.assert_close(total, expected.double(), atol=1e-5, rtol=1e-6)


def test_shifts_turns_and_mirrors_change_nothing_and_a_sign_changes_sign() -> None:
    maps = skewed(2, 0.5)
    value = bispectrum(maps, EDGES).value
    same = (maps.roll((5, -3), (-2, -1)), maps.rot90(1, (-2, -1)), maps.flip(-1), maps + 100)
    for image in same:
        torch.testing.assert_close(bispectrum(image, EDGES).value, value)
    torch.testing.assert_close(bispectrum(-maps, EDGES).value, -value)
    torch.testing.assert_close(bispectrum(2 * maps, EDGES).value, 8 * value)


def test_channels_and_blocks_are_separate(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.cat([skewed(3, 0.5), skewed(3, -0.5, seed=1)], dim=1)
    whole = bispectrum(maps, EDGES).value
    monkeypatch.setattr("ood_core.metrics.bispectrum.BLOCK_VALUES", 1)
    torch.testing.assert_close(bispectrum(maps, EDGES).value, whole)
    torch.testing.assert_close(bispectrum(maps[:, 1:], EDGES).value, whole[:, 1:])


def test_squeezed_triples_are_named() -> None:
    found = bispectrum(skewed(1, 0.1), EDGES)
    assert found.triples[found.squeezed].tolist() == [[0, j, j] for j in range(1, 4)]


def test_the_power_of_a_shell_is_that_of_its_modes() -> None:
    maps = torch.from_numpy(fields.gaussian(200, SIDE, falling, 3))
    found = bispectrum(maps, EDGES)
    modes = Shells(SIDE, SIDE, EDGES).modes
    expected = torch.tensor([20.0, 10, 5, 2]).double()
    error = expected / torch.sqrt(200 * modes / 2)
    assert ((found.power.mean((0, 1)) - expected).abs() < 5 * error).all()


@pytest.mark.parametrize("edges", [(1.0,), (0.0, 2.0), (2.0, 1.0), (1.0, 8.1), (1.1, 1.2)])
def test_wrong_edges_are_refused(edges: tuple[float, ...]) -> None:
    with pytest.raises(TargetError):
        bispectrum(skewed(1, 0.1), edges)


def test_no_maps_are_refused() -> None:
    with pytest.raises(TargetError):
        bispectrum(skewed(0, 0.1), EDGES)
