"""Plateaus: found where many pixels share an end of the range, and given to samples near it."""

import numpy as np
import pytest

from ood_core.maps.plateaus import EDGE, LEAST, Plateaus


def bubbles(share: float = 0.3, top: float = 0.0, seed: int = 0) -> np.ndarray:
    """Maps of values from 5 to 15, of which given shares are exactly 0 and exactly 20."""
    rng = np.random.default_rng(seed)
    maps = rng.uniform(5, 15, (8, 2, 16, 16)).astype(np.float32)
    place = np.tile(np.linspace(0, 1, 256, endpoint=False), (16, 1))
    place = rng.permuted(place, axis=1)
    place = place.reshape(maps.shape)
    maps[place < share] = 0
    maps[place >= 1 - top] = 20
    return maps


def test_the_edge_leaves_one_in_a_hundred_of_the_other_pixels() -> None:
    found = Plateaus.measure(bubbles())
    assert found.lowest.flatten().tolist() == [0, 0]
    # The 1 % quantile of a uniform law on 5 to 15 is 5.1; of 1,430 numbers it is known to 0.026.
    np.testing.assert_allclose(found.below.flatten(), 5.1, atol=5 * 0.026)
    assert np.array_equal(found.above, found.highest)  # nothing at the upper end


def test_samples_near_a_plateau_are_on_it_and_no_others_move() -> None:
    found, samples = Plateaus.measure(bubbles(top=0.1)), bubbles(seed=1)
    samples[0, 0, 0, :6] = -3.0, 1e-6, 2.5, 15.5, 18.0, 25.0
    settled = found.settle(samples)
    assert settled[0, 0, 0, :6].tolist() == [0, 0, 0, 20, 20, 20]
    inside = (samples >= found.below) & (samples <= found.above)
    assert np.array_equal(settled[inside], samples[inside])
    assert set(settled[~inside].tolist()) <= {0.0, 20.0}
    assert np.array_equal(found.settle(settled), settled)
    assert settled.dtype == np.float32


def test_targets_themselves_lose_no_more_than_the_edge_s_share() -> None:
    targets = bubbles(top=0.2)
    settled = Plateaus.measure(targets).settle(targets)
    others = (targets > 0) & (targets < 20)
    moved = (settled != targets)[others].sum()
    most = EDGE * ((targets > 0).sum() + (targets < 20).sum())  # the other plateau is among them
    assert 0 < moved <= most + 4  # a pixel per edge and channel
    assert np.array_equal(settled[~others], targets[~others])


@pytest.mark.parametrize(("share", "is_one"), [(LEAST - 0.01, False), (LEAST + 0.01, True)])
def test_few_equal_pixels_are_no_plateau(share: float, is_one: bool) -> None:
    samples = bubbles(seed=1) - 2
    found = Plateaus.measure(bubbles(share))
    assert np.array_equal(found.settle(samples), samples) is not is_one


def test_maps_without_plateaus_stay_as_they_are_even_beyond_the_targets() -> None:
    rng = np.random.default_rng(2)
    targets = rng.standard_normal((20, 1, 16, 16)).astype(np.float32)
    samples = 3 * rng.standard_normal((9, 1, 16, 16)).astype(np.float32)
    assert np.array_equal(Plateaus.measure(targets).settle(samples), samples)


def test_maps_of_two_values_are_parted_in_the_middle() -> None:
    found = Plateaus.measure(np.where(bubbles() > 9, 1, 0).astype(np.float32))
    samples = np.linspace(-0.5, 1.5, 512, dtype=np.float32).reshape(1, 2, 16, 16)
    assert np.array_equal(found.settle(samples), (samples > 0.5).astype(np.float32))


def test_channels_have_plateaus_of_their_own() -> None:
    targets, samples = bubbles(), bubbles(seed=1) - 1
    targets[:, 1] += 7
    found = Plateaus.measure(targets)
    assert found.lowest.flatten().tolist() == [0, 7]
    swapped = Plateaus.measure(targets[:, ::-1]).settle(samples[:, ::-1])
    assert np.array_equal(swapped[:, ::-1], found.settle(samples))


def test_a_constant_channel_changes_nothing() -> None:
    targets, samples = bubbles(), bubbles(seed=1) - 1
    targets[:, 0] = 3
    assert np.array_equal(Plateaus.measure(targets).settle(samples)[:, 0], samples[:, 0])
