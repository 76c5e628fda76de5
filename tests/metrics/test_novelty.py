"""Copies planted under a symmetry are found; fresh draws are as far as held-out maps."""

import math
from collections.abc import Sequence

import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.errors import TargetError
from ood_core.metrics.novelty import Reference, distance_ratio, nearest
from ood_core.numerics.symmetry import orbit_size, transform

DIHEDRAL: tuple[Symmetry, ...] = ("flip", "rotate90")


def noise(n: int, seed: int, side: int = 8) -> torch.Tensor:
    return torch.randn(n, 2, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("symmetries", [(), ("flip",), ("rotate90",), DIHEDRAL])
def test_planted_copies_are_found_with_target_and_element(symmetries: Sequence[Symmetry]) -> None:
    targets = noise(5, 0)
    for element in range(orbit_size(symmetries)):
        found = nearest(transform(targets, element, symmetries), targets, symmetries)
        assert found.distance.tolist() == [0.0] * 5
        assert found.target.tolist() == list(range(5))
        assert found.element.tolist() == [element] * 5


def test_a_turned_copy_is_missed_when_the_symmetry_is_not_declared() -> None:
    targets = noise(5, 0)
    turned = transform(targets, 1, ("rotate90",))
    assert (nearest(turned, targets, ()).distance > 0.5).all()


def test_distance_is_the_root_mean_square_of_the_difference() -> None:
    targets = noise(3, 0)
    assert nearest(targets + 0.25, targets, ()).distance.tolist() == pytest.approx([0.25] * 3)


def test_blocks_change_nothing() -> None:
    queries, targets = noise(7, 1), noise(5, 0)
    whole = nearest(queries, targets, DIHEDRAL)
    blocked = nearest(queries, targets, DIHEDRAL, block_values=2 * queries[0].numel())
    torch.testing.assert_close(blocked.distance, whole.distance)
    assert blocked.target.equal(whole.target) and blocked.element.equal(whole.element)


def test_a_large_offset_does_not_hide_a_copy() -> None:
    targets = noise(4, 0) + 1e4
    assert nearest(targets.flip(-1), targets, ("flip",)).distance.max() == 0


def test_ratio_is_one_for_fresh_draws_and_zero_for_copies() -> None:
    targets, held_out = noise(20, 0), noise(60, 1)
    reference, fresh, copies = Reference(targets, DIHEDRAL), noise(60, 2), targets.flip(-1)
    real, new, old = (reference.nearest(maps).distance for maps in (held_out, fresh, copies))
    assert distance_ratio(new, real) == pytest.approx(1, abs=0.05)
    assert distance_ratio(old, real) == 0


def test_held_out_copies_leave_nothing_to_compare_with() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert distance_ratio(zero, zero) == 1
    assert math.isinf(distance_ratio(one, zero))


def test_no_targets_are_refused() -> None:
    with pytest.raises(TargetError):
        nearest(noise(2, 0), noise(0, 0), ())


@pytest.mark.parametrize("symmetries", [(), ("flip",), DIHEDRAL])
def test_shifted_copies_are_found_with_target_element_and_shift(
    symmetries: Sequence[Symmetry],
) -> None:
    targets = noise(5, 0)
    for element in range(orbit_size(symmetries)):
        shift = (element % 8, 3)
        copies = transform(targets, element, symmetries).roll(shift, (-2, -1))
        found = Reference(targets, symmetries).nearest_shifted(copies)
        assert found.distance.tolist() == [0.0] * 5
        assert found.target.tolist() == list(range(5))
        assert found.element.tolist() == [element] * 5
        assert found.shift.tolist() == [list(shift)] * 5
    assert (nearest(copies, targets, symmetries).distance > 0.5).all()  # who searches no shift


def test_the_search_of_shifts_is_exhaustive_where_all_images_are_correlated() -> None:
    queries, targets = noise(6, 1), noise(1, 0)
    images = [
        transform(targets, element, DIHEDRAL).roll((y, x), (-2, -1))
        for element in range(8)
        for y in range(8)
        for x in range(8)
    ]
    apart = (queries[:, None] - torch.cat(images)).square().mean((2, 3, 4)).sqrt()
    found = Reference(targets, DIHEDRAL).nearest_shifted(queries)  # 8 images: as many as candidates
    torch.testing.assert_close(found.distance, apart.double().amin(1))


def test_blocks_of_shifts_change_nothing() -> None:
    queries, targets = noise(7, 1), noise(9, 0)
    reference = Reference(targets, DIHEDRAL)
    whole = reference.nearest_shifted(queries)
    blocked = reference.nearest_shifted(queries, block_values=2 * queries[0].numel())
    torch.testing.assert_close(blocked.distance, whole.distance)
    assert blocked.target.equal(whole.target) and blocked.shift.equal(whole.shift)
    with pytest.raises(TargetError):
        Reference(noise(0, 0), ()).nearest_shifted(queries)


def test_searching_shifts_brings_no_map_further_off() -> None:
    queries, targets = noise(20, 1), noise(1, 0)
    plain = nearest(queries, targets, DIHEDRAL).distance
    assert (Reference(targets, DIHEDRAL).nearest_shifted(queries).distance <= plain + 1e-12).all()
