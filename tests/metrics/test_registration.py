"""A target that was warped, squeezed or given other detail is near, a foreign map is not."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn, idctn
from scipy.ndimage import map_coordinates

from ood_core.metrics.one_point import own_units
from ood_core.metrics.registration import RegistrationSearch
from tests.oracles.fields import power_law

GROUP = ("flip", "rotate90")
TARGETS, OTHERS = (own_units(power_law(24, 32, seed=s)).float() for s in (1, 2))
SEARCH = RegistrationSearch.of(TARGETS, GROUP)
FAR = {name: float(found.distance.min()) for name, found in SEARCH.nearest(OTHERS).items()}


def checked(name: str, maps: torch.Tensor, most: float) -> None:
    found = SEARCH.nearest(own_units(maps).float())[name]
    assert found.target.tolist() == list(range(24))
    assert float(found.distance.max()) < most < 0.9 * FAR[name]


@pytest.mark.parametrize("name", ["waves", "registered"])
@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_images_and_negatives_are_at_distance_nought(name: str, turns: int, mirrored: bool) -> None:
    turned = torch.rot90(TARGETS, turns, (-2, -1))
    checked(name, 3 - 2 * (turned.flip(-1) if mirrored else turned), 2e-3)


def test_waves_are_told_whatever_the_detail() -> None:
    """Modes of p^2 + q^2 <= 20 are those of the targets, all others are foreign ones."""
    modes, others = (dctn(maps.numpy(), axes=(-2, -1), norm="ortho") for maps in (TARGETS, OTHERS))
    square = np.arange(32)[:, None] ** 2 + np.arange(32) ** 2
    mixed = idctn(np.where(square <= 20, modes, others), axes=(-2, -1), norm="ortho")
    checked("waves", torch.from_numpy(mixed), 2e-3)


def test_a_smooth_warp_is_undone() -> None:
    """The displacement is one of those that are searched: 1 px of cos(pi x), 0.6 px of cos(pi y).

    What is left are edges, where pixels come into view, and the cost of bending.
    """
    y, x = np.indices((32, 32)).astype(float)
    at = [y + np.cos(np.pi * (x + 0.5) / 32), x + 0.6 * np.cos(np.pi * (y + 0.5) / 32)]
    warped = [map_coordinates(m[0].numpy(), at, order=3, mode="mirror")[None] for m in TARGETS]
    checked("registered", torch.from_numpy(np.stack(warped)), 0.35)


@pytest.mark.parametrize("axis", [-2, -1])
def test_two_targets_squeezed_side_by_side_are_found(axis: int) -> None:
    def squeezed(maps: torch.Tensor) -> torch.Tensor:
        return maps.unfold(axis, 2, 2).mean(-1)

    checked("registered", torch.cat([squeezed(OTHERS), squeezed(TARGETS)], axis), 0.5)


def test_constant_maps_and_empty_halves_resemble_nothing() -> None:
    empty = TARGETS * 0
    half = OTHERS.clone()
    half[..., :16] = 0
    for maps in (empty, half):
        found = SEARCH.nearest(maps)
        assert all(bool(f.distance.isfinite().all()) for f in found.values())
        assert all(float(f.distance.min()) > 0.5 for f in found.values())
