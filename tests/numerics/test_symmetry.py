"""Images of a map under declared symmetries form a group."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.config.targets import Symmetry
from ood_core.numerics.symmetry import invariant, orbit, orbit_size, transform
from tests.strategies import randn, repeatable

SETS: list[tuple[Symmetry, ...]] = [
    (),
    ("flip",),
    ("rotate90",),
    ("flip", "rotate90"),
    ("translate",),
    ("flip", "rotate90", "translate"),
    ("flip", "centred"),
    ("rotate90", "centred"),
    ("flip", "rotate90", "centred"),
]


def number_of(image: torch.Tensor, images: list[torch.Tensor]) -> int:
    """Which image it is; fails unless exactly one agrees."""
    (found,) = [i for i, other in enumerate(images) if torch.equal(image, other)]
    return found


@pytest.mark.parametrize("symmetries", SETS)
def test_images_are_distinct_and_the_identity_comes_first(symmetries: tuple[Symmetry, ...]) -> None:
    maps = randn(2, 1, 5, 5)
    images = orbit(maps, symmetries)
    assert len(images) == orbit_size(symmetries)
    assert torch.equal(images[0], maps)
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(images, 2))
    assert all(image.is_contiguous() for image in images)


@pytest.mark.parametrize("symmetries", SETS)
def test_images_are_closed_under_composition_and_have_inverses(
    symmetries: tuple[Symmetry, ...],
) -> None:
    maps = randn(1, 1, 5, 5)
    images, elements = orbit(maps, symmetries), range(orbit_size(symmetries))
    table = [
        [number_of(transform(images[a], b, symmetries), images) for b in elements] for a in elements
    ]
    everything = set(elements)
    assert all(set(row) == everything for row in table)  # each column and row is a permutation,
    assert all(
        set(column) == everything for column in zip(*table, strict=True)
    )  # so inverses exist


@repeatable
@given(st.sampled_from(SETS), st.integers(0, 30))
def test_transform_is_the_orbits_entry(symmetries: tuple[Symmetry, ...], element: int) -> None:
    maps = randn(2, 2, 4, 4, seed=element)
    expected = orbit(maps, symmetries)[element % orbit_size(symmetries)]
    assert torch.equal(transform(maps, element, symmetries), expected)


def test_the_order_of_declaration_does_not_matter() -> None:
    maps = randn(1, 1, 4, 4)
    straight, turned = orbit(maps, ("flip", "rotate90")), orbit(maps, ("rotate90", "flip"))
    assert all(torch.equal(a, b) for a, b in zip(straight, turned, strict=True))


def test_flip_mirrors_the_x_axis_and_rotate90_turns_by_a_quarter() -> None:
    corner = torch.zeros(1, 1, 3, 3)
    corner[..., 0, 0] = 1
    assert float(transform(corner, 1, ("flip",))[..., 0, 2]) == 1
    assert float(transform(corner, 1, ("rotate90",))[..., 2, 0]) == 1


def test_centred_maps_keep_their_middle_pixel_and_their_first_row_and_column() -> None:
    """About pixel `side // 2`; of odd sides that is the middle."""
    symmetries: tuple[Symmetry, ...] = ("flip", "rotate90", "centred")
    for side in (6, 7):
        maps = torch.zeros(1, 1, side, side)
        maps[..., side // 2, side // 2] = 1
        assert all(torch.equal(image, maps) for image in orbit(maps, symmetries))
    border = torch.zeros(1, 1, 6, 6)
    border[..., 0, :] = border[..., :, 0] = 1
    assert all(torch.equal(image, border) for image in orbit(border, symmetries))
    odd = randn(2, 1, 5, 5)
    plain = orbit(odd, ("flip", "rotate90"))
    assert all(torch.equal(a, b) for a, b in zip(orbit(odd, symmetries), plain, strict=True))
    inner = randn(1, 1, 6, 6)
    mean = invariant(inner, symmetries)
    torch.testing.assert_close(torch.cat(orbit(inner, symmetries)).mean(0, keepdim=True), mean)
