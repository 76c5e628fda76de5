"""Declared symmetries of a field, as the group of images of a map.

A symmetry is physics that the user declares: the distribution of the targets does not change under
it. `translate` means periodic stationarity; it has no finite orbit here and is used by spectral
estimators, not by `orbit`.

`flip` and `rotate90` are about the middle of a map: of an even side that is a corner of four
pixels. Cut-outs around an object have it on pixel `side // 2`; mirrored about the corner, its one
brightest pixel would be on any of four. So with `centred` they are about that pixel, and the first
row or column, which lies opposite to none, stays where it is.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.targets import Symmetry


def orbit_size(symmetries: Sequence[Symmetry]) -> int:
    """Number of distinct images that `orbit` gives per map."""
    return {(False, False): 1, (True, False): 2, (False, True): 4, (True, True): 8}[
        ("flip" in symmetries, "rotate90" in symmetries)
    ]


def orbit(maps: Maps, symmetries: Sequence[Symmetry]) -> list[Maps]:
    """Return the images of all maps, one list entry per group element, the identity first.

    `flip` mirrors the x axis and `rotate90` turns in the plane; both together give the dihedral
    group of the square (8 elements).
    """
    images = [maps]
    if "rotate90" in symmetries:
        images = [turned(maps, quarter, symmetries) for quarter in range(4)]
    if "flip" in symmetries:
        images = images + [mirrored(image, symmetries) for image in images]
    return [image.contiguous() for image in images]


def mirrored(maps: Maps, symmetries: Sequence[Symmetry], axis: int = -1) -> Maps:
    """Maps mirrored along an axis."""
    image, first = maps.flip(axis), fixed(maps.shape[axis], symmetries)
    return image.roll(first, axis) if first else image


def turned(maps: Maps, quarters: int, symmetries: Sequence[Symmetry]) -> Maps:
    """Maps after so many quarter turns."""
    match quarters % 4:
        case 1:
            return mirrored(maps.transpose(-2, -1), symmetries, -2)
        case 2:
            return mirrored(mirrored(maps, symmetries, -2), symmetries)
        case 3:
            return mirrored(maps.transpose(-2, -1), symmetries)
        case _:
            return maps


def fixed(side: int, symmetries: Sequence[Symmetry]) -> int:
    """Rows, or columns, at the beginning that stay where they are when a side is mirrored."""
    return int("centred" in symmetries and side % 2 == 0)


def invariant(maps: Maps, symmetries: Sequence[Symmetry]) -> Maps:
    """Return the mean of each map over its images: its part that the symmetries leave alone."""
    if "translate" in symmetries:
        return maps.mean((-2, -1), keepdim=True).expand_as(maps)
    if "rotate90" in symmetries:
        for quarters in (2, 1):
            maps = (maps + turned(maps, quarters, symmetries)) / 2
    return (maps + mirrored(maps, symmetries)) / 2 if "flip" in symmetries else maps


def transform(maps: Maps, element: int, symmetries: Sequence[Symmetry]) -> Maps:
    """Apply group element number `element` (as ordered by `orbit`) to all maps."""
    turns = 4 if "rotate90" in symmetries else 1
    element %= orbit_size(symmetries)
    image = turned(maps, element % turns, symmetries)
    return (mirrored(image, symmetries) if element >= turns else image).contiguous()


def inverse(element: int, symmetries: Sequence[Symmetry]) -> int:
    """Return the element that undoes one; mirror images undo themselves."""
    turns = 4 if "rotate90" in symmetries else 1
    return -element % turns if element < turns else element


def turned_shift(
    shift: Int[Tensor, "n 2"], element: int, symmetries: Sequence[Symmetry]
) -> Int[Tensor, "n 2"]:
    """Return shifts `s'` (y, x) for which the image of a map rolled by `s` is rolled by `s'`."""
    turns = 4 if "rotate90" in symmetries else 1
    y, x = shift.unbind(1)
    for _ in range(element % turns):
        y, x = -x, y
    return torch.stack([y, -x if element >= turns else x], dim=1)
