"""Quantization: steps and plateaus of the targets' numbers are found, and done to samples."""

from typing import Any

import numpy as np
import pytest

from ood_core.config.targets import TransformKind
from ood_core.maps.quantization import EDGE, MIN_SHARE, Quantization, step_of
from ood_core.maps.transforms import RangeTransform


def bubbles(share: float = 0.3, top: float = 0.0, seed: int = 0) -> Any:
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
    found = Quantization.measure(bubbles())
    assert found.lowest.flatten().tolist() == [0, 0]
    # The 1 % quantile of uniform numbers on 5 to 15 is 5.1; of 1,430 numbers it is known to 0.026.
    np.testing.assert_allclose(found.lower_edge.flatten(), 5.1, atol=5 * 0.026)
    assert np.array_equal(found.upper_edge, found.highest)  # nothing at the upper end


def test_samples_near_a_plateau_are_on_it_and_no_others_move() -> None:
    found, samples = Quantization.measure(bubbles(top=0.1)), bubbles(seed=1)
    samples[0, 0, 0, :6] = -3.0, 1e-6, 2.5, 15.5, 18.0, 25.0
    settled = found(samples)
    assert settled[0, 0, 0, :6].tolist() == [0, 0, 0, 20, 20, 20]
    inside = (samples >= found.lower_edge) & (samples <= found.upper_edge)
    assert np.array_equal(settled[inside], samples[inside])
    assert set(settled[~inside].tolist()) <= {0.0, 20.0}
    assert np.array_equal(found(settled), settled)
    assert settled.dtype == np.float32


def test_targets_themselves_lose_no_more_than_the_edge_s_share() -> None:
    targets = bubbles(top=0.2)
    settled = Quantization.measure(targets)(targets)
    others = (targets > 0) & (targets < 20)
    moved = (settled != targets)[others].sum()
    most = EDGE * ((targets > 0).sum() + (targets < 20).sum())  # the other plateau is among them
    assert 0 < moved <= most + 4  # a pixel per edge and channel
    assert np.array_equal(settled[~others], targets[~others])


@pytest.mark.parametrize(("share", "is_one"), [(MIN_SHARE - 0.01, False), (MIN_SHARE + 0.01, True)])
def test_few_equal_pixels_are_no_plateau(share: float, is_one: bool) -> None:
    samples = bubbles(seed=1) - 2
    found = Quantization.measure(bubbles(share))
    assert np.array_equal(found(samples), samples) is not is_one


def test_maps_without_plateaus_stay_as_they_are_even_beyond_the_targets() -> None:
    rng = np.random.default_rng(2)
    targets = rng.standard_normal((20, 1, 16, 16)).astype(np.float32)
    samples = 3 * rng.standard_normal((9, 1, 16, 16)).astype(np.float32)
    assert np.array_equal(Quantization.measure(targets)(samples), samples)


def test_maps_of_two_values_are_parted_in_the_middle() -> None:
    found = Quantization.measure(np.where(bubbles() > 9, 1, 0).astype(np.float32))
    assert found.step.flatten().tolist() == [0, 0]
    samples = np.linspace(-0.5, 1.5, 512, dtype=np.float32).reshape(1, 2, 16, 16)
    assert np.array_equal(found(samples), (samples > 0.5).astype(np.float32))


def test_channels_have_plateaus_of_their_own() -> None:
    targets, samples = bubbles(), bubbles(seed=1) - 1
    targets[:, 1] += 7
    found = Quantization.measure(targets)
    assert found.lowest.flatten().tolist() == [0, 7]
    told = found.found
    assert [row["lowest_up_to"] for row in told] == found.lower_edge.flatten().tolist()
    assert [(row["step"], row["highest_from"]) for row in told] == [(None, None), (None, None)]
    swapped = Quantization.measure(targets[:, ::-1])(samples[:, ::-1])
    assert np.array_equal(swapped[:, ::-1], found(samples))


def test_a_constant_channel_changes_nothing() -> None:
    targets, samples = bubbles(), bubbles(seed=1) - 1
    targets[:, 0] = 3
    assert np.array_equal(Quantization.measure(targets)(samples)[:, 0], samples[:, 0])


@pytest.mark.parametrize(
    ("step", "kind"),
    [(1.0, "linear"), (1.0, "asinh"), (1 / 3, "asinh"), (0.1, "log"), (40.0, "log")],
)
def test_rounded_numbers_come_back_from_model_range_exactly(
    step: float, kind: TransformKind
) -> None:
    """Counts, means of three of them, scaled integers: equal to the number that was stored."""
    rng = np.random.default_rng(1)
    targets = (rng.integers(1, 4000, (8, 1, 32, 32)) * step).astype(np.float32)
    transform = RangeTransform.measure(kind, targets)
    back = transform.inverse(transform.forward(targets))
    found = Quantization.measure(back)
    assert float(found.step.item()) == step
    assert found.found == [{"step": step, "lowest_up_to": None, "highest_from": None}]
    assert np.array_equal(found(back), targets)
    between = back + np.float32(0.3 * step)
    assert np.array_equal(found(between), targets)
    assert not np.array_equal(between, targets)


@pytest.mark.parametrize("sparse", [1, 5, 700])
def test_the_step_is_found_where_most_multiples_are_missing(sparse: int) -> None:
    rng = np.random.default_rng(2)
    whole = rng.choice(np.arange(60000), 60000 // sparse, replace=False).astype(np.float64)
    assert step_of(0.25 * np.repeat(np.append(whole, [7, 8]), 3)) == 0.25


def test_numbers_of_a_continuous_law_have_no_step() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        values = rng.standard_normal(4096).astype(np.float32).astype(np.float64)
        assert step_of(values) == 0
        assert step_of(values[: 8 + seed]) == 0
        assert step_of(np.where(values < 0, 0, values)) == 0  # with a plateau


def test_a_tenth_of_a_step_of_noise_is_no_step() -> None:
    rng = np.random.default_rng(3)
    whole = rng.integers(0, 200, 4096)
    assert step_of(whole + 1e-5 * rng.standard_normal(4096)) == 1  # as float32 has it
    assert step_of(whole + 0.1 * rng.standard_normal(4096)) == 0


def test_without_a_step_or_a_plateau_not_a_bit_changes() -> None:
    targets = np.random.default_rng(4).standard_normal((8, 3, 16, 16)).astype(np.float32)
    found = Quantization.measure(targets)
    samples = np.random.default_rng(5).standard_normal((4, 3, 16, 16)).astype(np.float32)
    assert found(samples).tobytes() == samples.tobytes()
    targets[:, 1] = np.round(targets[:, 1] * 4)
    mixed = Quantization.measure(targets)(samples)
    assert mixed[:, ::2].tobytes() == samples[:, ::2].tobytes()
    assert np.array_equal(mixed[:, 1], np.round(samples[:, 1]))
