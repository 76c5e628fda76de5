"""Near duplicates across the splits are named, refused or left out; different maps are not."""

import numpy as np
import pytest
import torch

from ood_core.errors import TargetError
from ood_core.maps.duplicates import near_duplicates, turned_copies
from ood_core.maps.target_set import TargetSet
from tests.oracles.fields import power_law

MAPS = power_law(96, 16, seed=4).numpy()


def with_copy(copy: np.ndarray, row: int = 70) -> np.ndarray:
    values = MAPS.copy()
    values[row] = copy
    return values


def noised(values: np.ndarray, part: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal(values.shape)
    return (values + part * values.std() * noise).astype(np.float32)


COPIES = {
    "noised": noised(MAPS[5], 0.05),
    "mirrored": MAPS[5, :, ::-1],
    "turned": np.rot90(MAPS[5], 1, (-2, -1)).copy(),
    "shifted": np.roll(MAPS[5], (3, 7), (-2, -1)),
    "of other contrast": 3 - 2 * -MAPS[5],
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_near_duplicate_of_any_kind_is_found(kind: str) -> None:
    assert near_duplicates(with_copy(COPIES[kind]), 32) == [(70, 5)]


@pytest.mark.parametrize("seed", range(5))
def test_different_maps_are_no_duplicates(seed: int) -> None:
    # 1 % of sets have one by chance.
    for slope in (1.0, 2.5, 4.0):
        assert near_duplicates(power_law(96, 16, slope, seed).numpy(), 32) == []


def test_many_duplicates_do_not_hide_one_another() -> None:
    values = MAPS.copy()
    values[40:60] = noised(values[:20], 0.003)
    assert near_duplicates(values, 32) == [(40 + i, i) for i in range(20)]


def test_targets_with_a_near_duplicate_are_refused_or_left_out() -> None:
    values = with_copy(COPIES["noised"])
    with pytest.raises(TargetError, match=r"1 held-out maps that are nearly.*map:70 = map:5"):
        TargetSet.from_arrays(values, held_out=64)
    with pytest.warns(match="left out 1 held-out maps"):
        kept = TargetSet.from_arrays(values, held_out=64, duplicates="leave_out")
    assert (kept.fit_count, len(kept)) == (32, 95) and "map:70" not in kept.ids
    equal = with_copy(MAPS[5])
    with pytest.raises(TargetError, match="identical to fitted ones"):
        TargetSet.from_arrays(equal, held_out=64)
    with pytest.warns(match="left out 1 held-out maps"):
        assert len(TargetSet.from_arrays(equal, held_out=64, duplicates="leave_out")) == 95


def test_turned_copies_of_one_split_are_named() -> None:
    """Of both splits; neither identical maps nor copies across the split, which are refused."""
    values = MAPS.copy()
    values[3], values[9], values[80] = (
        MAPS[5, :, ::-1],
        np.rot90(MAPS[8], 3, (1, 2)),
        MAPS[70, :, :, ::-1],
    )
    values[12], values[90] = MAPS[11], MAPS[5]
    expected = [(3, 5), (8, 9), (70, 80)]
    assert turned_copies(values, 32) == expected
    assert turned_copies(np.roll(MAPS, 3, -1)[:40, :, :, :12], 32) == []
    with pytest.warns(match=r"1 maps are mirrored or turned copies .*\(map:3 = map:5\)"):
        TargetSet.from_arrays(with_copy(MAPS[5, :, ::-1], 3), held_out=64)


def test_large_oblong_and_huge_maps_are_compared() -> None:
    wide = torch.randn(12, 1, 40, 70, generator=torch.Generator().manual_seed(0)).numpy()
    assert near_duplicates((1e30 * wide).astype(np.float32), 6) == []
    for copy in (np.roll(wide[2], 5, -1), wide[2, :, ::-1], wide[2, :, ::-1, ::-1]):
        wide[8] = copy
        assert near_duplicates(wide, 6) == [(8, 2)]
