"""On which point maps are centred: told by their mean."""

import numpy as np
import pytest
import torch

import ood_core as ff
from ood_core.errors import ConfigError, TargetError
from ood_core.maps.centre import on_pixel

BOTH = ("flip", "rotate90")


def objects(at, count=24, side=16, seed=0):
    """Round objects of different sizes at a place, in pixels from the middle, and noise."""
    rng = np.random.default_rng(seed)
    place = np.arange(side) - (side - 1) / 2 - at
    radius = np.hypot(place[:, None], place[None])
    width = rng.uniform(1, 3, (count, 1, 1))
    maps = np.exp(-((radius / width) ** 2)) + 0.1 * rng.normal(size=(count, side, side))
    return maps.astype(np.float32)


def fields(slope, count=64, side=32, seed=0):
    """Periodic Gaussian fields, which have no centre."""
    k = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    k[0, 0] = 1 / side
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(count, side, side)))
    return np.fft.ifft2(noise * k**-slope).real.astype(np.float32)


@pytest.mark.parametrize(("at", "found"), [(0.5, True), (0.0, False), (-0.5, False)])
def test_objects_on_a_pixel_are_told_from_those_on_a_corner(at, found):
    targets = ff.TargetSet.from_arrays(objects(at), symmetries=BOTH)
    assert ("centred" in targets.symmetries) is found
    assert targets.record()["symmetries"] == sorted(targets.symmetries)


@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_fields_have_no_centre(slope):
    """The least ratio of 40 such sets was 0.71, and 0.66 at a slope of 3."""
    found = [on_pixel(torch.from_numpy(fields(slope, seed=s))[:, None], BOTH) for s in range(8)]
    assert not any(found)


def test_only_symmetries_about_a_point_of_even_sides_are_asked():
    maps = torch.from_numpy(objects(0.5))[:, None]
    assert on_pixel(maps, BOTH) and on_pixel(maps, ("flip",))
    assert not on_pixel(maps, ()) and not on_pixel(maps, ("flip", "translate"))
    assert not on_pixel(maps, (*BOTH, "centred")) and not on_pixel(maps[..., 1:, 1:], BOTH)


def test_oblong_maps_that_may_be_turned_are_still_refused_in_words():
    targets = ff.TargetSet.from_arrays(objects(0.5)[:, :, :-2].repeat(2, 1), symmetries=BOTH)
    assert targets.symmetries == BOTH
    with pytest.raises(TargetError, match="squares where the symmetry rotate90 is declared"):
        targets.check()
    flipped = ff.TargetSet.from_arrays(objects(0.5).repeat(2, 1), symmetries=("flip",))
    flipped.check()


def test_what_is_declared_stays_and_needs_flips_or_turns():
    targets = ff.TargetSet.from_arrays(objects(0.0), symmetries=(*BOTH, "centred"))
    assert targets.symmetries == (*BOTH, "centred")
    for wrong in (("centred",), ("flip", "translate", "centred")):
        with pytest.raises(ConfigError, match="got centred; expected it with flip"):
            ff.TargetSet.from_arrays(objects(0.0), symmetries=wrong)
