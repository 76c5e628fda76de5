"""Discs: a turned, mirrored or moved piece is at distance 0, a foreign one is not."""

import pytest
import torch

from ood_core.metrics.pieces import SIZES, PieceSearch
from tests.oracles.fields import power_law

TARGETS, OTHERS = power_law(12, 32, seed=1), power_law(12, 32, seed=2)


def nearest(maps: torch.Tensor, targets: torch.Tensor = TARGETS) -> dict[str, tuple[float, list]]:
    found = PieceSearch.of(targets).nearest(maps)
    return {n: (float(f.distance.max()), f.target.tolist()) for n, f in found.items()}


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_quarter_turns_and_mirror_images_are_found_exactly(turns: int, mirrored: bool) -> None:
    # By the middle disc: it lies between the same pixels after a turn, whatever is declared.
    turned = torch.rot90(TARGETS, turns, (-2, -1))
    distance, target = nearest(3 - 2 * (turned.flip(-1) if mirrored else turned))["whole"]
    assert distance > 0.9  # a negative is no copy
    distance, target = nearest(3 + 2 * (turned.flip(-1) if mirrored else turned))["whole"]
    assert distance < 2e-3 and target == list(range(12))


@pytest.mark.parametrize("shift", [(0, 0), (8, 8), (-7, 3)])
def test_what_a_moved_window_shares_is_found(shift: tuple[int, int]) -> None:
    big = power_law(12, 64, seed=1)
    y, x = 16 + shift[0], 16 + shift[1]
    targets, moved = big[..., 16:48, 16:48], big[..., y : y + 32, x : x + 32]
    distance, target = nearest(moved, targets)["piece"]
    # 8 px leave a corner of 24: the disc of 15 fits, but its neighbours' edges were padded.
    assert distance < 0.45 and target == list(range(12))
    assert min(float(d) for d in PieceSearch.of(targets).nearest(OTHERS)["piece"].distance) > 0.5


def test_several_channels_turn_together() -> None:
    pair = torch.cat([TARGETS, OTHERS], 1)
    assert nearest(torch.rot90(pair, 1, (-2, -1)), pair)["whole"][0] < 2e-3
    mixed = torch.cat([torch.rot90(TARGETS, 1, (-2, -1)), OTHERS], 1)
    assert nearest(mixed, pair)["whole"][0] > 0.5


def test_large_and_odd_and_tiny_maps_are_searched_as_well() -> None:
    for shape in ((96, 96), (33, 33), (17, 20), (6, 7), (2, 2)):
        maps = torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(0))
        found = PieceSearch.of(maps).nearest(maps)
        assert tuple(found) == SIZES
        assert all(float(f.distance.max()) < 2e-3 for f in found.values())


def test_a_constant_map_has_no_pieces_and_no_nans() -> None:
    found = PieceSearch.of(TARGETS).nearest(torch.zeros(2, 1, 32, 32))
    assert all(f.distance.isfinite().all() and (f.distance > 1).all() for f in found.values())
