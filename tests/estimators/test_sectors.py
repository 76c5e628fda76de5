"""Sectors of symmetrised covariances against the dense mean over all images."""

import numpy as np
import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.estimators.sectors import folded, leading_modes, sectors, unfolded
from ood_core.numerics.symmetry import orbit
from tests.oracles import gaussian
from tests.strategies import randn

GROUPS: list[tuple[Symmetry, ...]] = [
    (), ("flip",), ("rotate90",), ("flip", "rotate90"), ("flip", "centred"),
    ("rotate90", "centred"), ("flip", "rotate90", "centred"),
]  # fmt: skip
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


@pytest.mark.parametrize(("size", "first"), [(4, 0), (5, 0), (4, 1), (6, 1)])
@pytest.mark.parametrize("axis", [-1, -2])
def test_even_and_odd_parts_are_the_whole_with_its_norm(size: int, first: int, axis: int) -> None:
    maps = randn(3, 2, size, size, seed=3)
    signs = (False, True)
    parts = [folded(maps, axis, odd, first) for odd in signs]
    back = [unfolded(p, axis, size, odd, first) for p, odd in zip(parts, signs, strict=True)]
    torch.testing.assert_close(back[0] + back[1], maps)
    torch.testing.assert_close(back[0].flip(axis).roll(first, axis), back[0])
    torch.testing.assert_close(back[1].flip(axis).roll(first, axis), -back[1])
    for part, whole in zip(parts, back, strict=True):
        torch.testing.assert_close((part**2).sum(), (whole**2).sum())


def test_every_sector_is_its_own() -> None:
    residuals = randn(3, 1, 4, 4, seed=8).float()
    total = sum(
        len(sector.back) * float(sector.gram().trace())
        for sector in sectors(residuals, ("flip", "rotate90"))
    )
    assert total == pytest.approx(float((residuals**2).sum()), rel=1e-5)
