"""Sectors of symmetrised covariances against the dense mean over all images."""

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf, oas

from ood_core.config.targets import Symmetry
from ood_core.estimators.families import Traces
from ood_core.estimators.sectors import folded, leading_modes, sectors, unfolded
from ood_core.numerics.symmetry import orbit
from tests.oracles import gaussian
from tests.strategies import randn

GROUPS: list[tuple[Symmetry, ...]] = [(), ("flip",), ("rotate90",), ("flip", "rotate90")]
SHAPES = [(1, 6, 6), (2, 5, 5)]
# Gram matrices are products in float32 of numbers of order one, over at most 50 pixels.
SINGLE = 2e-5


def dense(residuals: torch.Tensor, symmetries: tuple[Symmetry, ...]) -> np.ndarray:
    rows = gaussian.flat(torch.cat(orbit(residuals, symmetries)))
    return rows.T @ rows / len(rows)


@pytest.mark.parametrize("symmetries", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_modes_are_the_eigenmodes_of_all_images(
    shape: tuple[int, int, int], symmetries: tuple[Symmetry, ...]
) -> None:
    residuals = randn(4, *shape, seed=1).float()
    modes = leading_modes(residuals, symmetries, 10**6)
    rows = gaussian.flat(modes.maps)
    np.testing.assert_allclose(rows @ rows.T, np.eye(len(rows)), atol=SINGLE)
    again = rows.T @ np.diag(modes.values.numpy()) @ rows
    np.testing.assert_allclose(again, dense(residuals, symmetries), atol=SINGLE)
    assert bool((modes.values.diff() <= SINGLE).all())
    if symmetries:  # negative control: images that nobody averaged differ
        assert np.abs(again - dense(residuals, ())).max() > 0.1


@pytest.mark.parametrize("symmetries", GROUPS)
def test_few_modes_are_the_largest(symmetries: tuple[Symmetry, ...]) -> None:
    residuals = randn(6, 1, 6, 6, seed=2).float()
    values = np.linalg.eigvalsh(dense(residuals, symmetries))[::-1]
    few = leading_modes(residuals, symmetries, 5)
    assert 4 <= len(few.values) <= 5  # a pair is kept whole or not at all
    np.testing.assert_allclose(few.values.numpy(), values[: len(few.values)], rtol=1e-4)


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize("axis", [-1, -2])
def test_even_and_odd_parts_are_the_whole_with_its_norm(size: int, axis: int) -> None:
    maps = randn(3, 2, size, size, seed=3)
    parts = [folded(maps, axis, odd) for odd in (False, True)]
    back = [unfolded(part, axis, size, odd) for part, odd in zip(parts, (False, True), strict=True)]
    torch.testing.assert_close(back[0] + back[1], maps)
    torch.testing.assert_close(back[0].flip(axis), back[0])
    torch.testing.assert_close(back[1].flip(axis), -back[1])
    for part, whole in zip(parts, back, strict=True):
        torch.testing.assert_close((part**2).sum(), (whole**2).sum())


@pytest.mark.parametrize("symmetries", GROUPS)
@pytest.mark.parametrize("shape", SHAPES)
def test_traces_are_those_of_the_dense_matrices(
    shape: tuple[int, int, int], symmetries: tuple[Symmetry, ...]
) -> None:
    residuals = randn(5, *shape, seed=4).float()
    found, whole = Traces.measure(residuals, symmetries), dense(residuals, symmetries)
    each = [dense(row[None], symmetries) for row in residuals]
    expected = [np.trace(whole), (whole**2).sum(), np.mean([(one**2).sum() for one in each])]
    np.testing.assert_allclose([found.trace, found.square, found.own], expected, rtol=1e-5)
    noise = sum(((one - whole) ** 2).sum() for one in each) / 25
    spread = ((whole - np.trace(whole) / len(whole) * np.eye(len(whole))) ** 2).sum()
    assert found.ledoit_wolf() == pytest.approx(min(1, noise / spread), rel=1e-4)


@pytest.mark.parametrize("n", [3, 10, 40])
def test_shares_are_those_of_scikit_learn(n: int) -> None:
    scale = torch.linspace(0.1, 3, 16, dtype=torch.float64).reshape(1, 4, 4)
    maps = (randn(n, 1, 4, 4, seed=n) * scale + 5).float()
    found = Traces.measure(maps - maps.mean(0), ())
    rows = gaussian.flat(maps)
    # Float32 residuals about a mean of 5, squared and summed twice.
    assert found.ledoit_wolf() == pytest.approx(ledoit_wolf(rows)[1], rel=1e-4)
    assert found.oas() == pytest.approx(oas(rows)[1], rel=1e-4)


def test_white_maps_are_shrunk_wholly_and_a_plane_of_maps_hardly() -> None:
    white = Traces.measure(randn(20, 1, 16, 16, seed=5).float(), ())
    assert white.ledoit_wolf() > 0.9
    assert white.oas() > 0.9
    plane = torch.einsum("nk,kcyx->ncyx", randn(20, 2, seed=6), randn(2, 1, 16, 16, seed=7))
    thin = Traces.measure(plane.float(), ())
    assert thin.ledoit_wolf() < 0.15
    assert thin.oas() < 0.15
    assert Traces.measure(torch.zeros(3, 1, 4, 4), ()).oas() == 1  # nothing there to keep


def test_every_sector_is_its_own() -> None:
    residuals = randn(3, 1, 4, 4, seed=8).float()
    total = sum(
        len(sector.back) * float(sector.gram().trace())
        for sector in sectors(residuals, ("flip", "rotate90"))
    )
    assert total == pytest.approx(float((residuals**2).sum()), rel=1e-5)
