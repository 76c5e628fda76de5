"""Phase coherence: 1 for a point, 0 for Gaussian fields, known for weak skewness."""

import math

import numpy as np
import pytest
import torch

from ood_core.errors import TargetError
from ood_core.metrics.phases import phase_coherence
from tests.oracles import fields

EDGES = (1.0, 2.5, 4.5, 6.5, 8.0)
SIDE = 24


def exponential(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(fields.rng(seed).exponential(size=(n, 1, SIDE, SIDE)))


def test_a_point_has_all_phases_aligned_wherever_it_lies() -> None:
    point = torch.zeros(2, 1, SIDE, SIDE)
    point[0, 0, 0, 0], point[1, 0, 5, 17] = 1, -2
    value = phase_coherence(point, EDGES).value
    torch.testing.assert_close(value[0], torch.ones_like(value[0]))
    torch.testing.assert_close(value[1], -torch.ones_like(value[1]))


@pytest.mark.parametrize("radius", [0.0, 2.0])
def test_a_gaussian_field_has_none_within_its_derived_error(radius: float) -> None:
    maps = torch.from_numpy(fields.gaussian(400, SIDE, fields.smooth(radius), 1))
    found = phase_coherence(maps, EDGES)
    assert (found.value.mean(0) / found.noise * math.sqrt(400)).abs().max() < 5
    # Triangles with two equal sides, a few parts in a hundred, vary less than `noise` allows.
    ratio = found.value.std(0) / found.noise
    assert ((ratio > 0.8) & (ratio < 1.2)).all()


def test_weakly_skewed_pixels_have_matsubaras_coherence() -> None:
    # Exponential pixels: B = 2 and P = 1 at every triangle, so (pi^1/2 / 2)^3 2 / 24 = 0.058. The
    # next order is smaller by 1 / N^1/2 of the excess, some parts in a hundred.
    found = phase_coherence(exponential(1000), EDGES)
    expected = (math.sqrt(math.pi) / 2) ** 3 * 2 / SIDE
    error = found.noise / math.sqrt(1000)
    assert ((found.value.mean(0) - expected).abs() < 5 * error + 0.05 * expected).all()
    assert ((found.value.mean(0) > 5 * error).sum() > len(error) / 2).item()


def test_scrambled_phases_lose_it_at_the_same_power() -> None:
    maps = exponential(1000)
    scrambled = torch.from_numpy(fields.scrambled(maps.numpy(), 5))
    found = phase_coherence(scrambled, EDGES)
    assert (found.value.mean(0).abs() < 5 * found.noise / math.sqrt(1000)).all()


def test_shifts_and_blurs_change_nothing() -> None:
    maps = exponential(3)
    value = phase_coherence(maps, EDGES).value
    transfer = np.exp(-((fields.wavenumbers(SIDE) * 0.8) ** 2) / 2)
    blurred = np.fft.ifft2(np.fft.fft2(maps.numpy()) * transfer).real
    torch.testing.assert_close(phase_coherence(torch.from_numpy(blurred), EDGES).value, value)
    torch.testing.assert_close(phase_coherence(maps.roll(7, -1), EDGES).value, value)
    torch.testing.assert_close(phase_coherence(-maps, EDGES).value, -value)


def test_a_constant_map_has_no_phases_and_no_maps_are_refused() -> None:
    assert (phase_coherence(torch.full((1, 1, SIDE, SIDE), 3.0), EDGES).value == 0).all()
    with pytest.raises(TargetError):
        phase_coherence(exponential(0), EDGES)
