"""Hats over brightness are a partition of unity."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.denoising.hats import brightness_edges, brightness_hats
from ood_core.metrics.detail import local_mean
from tests.strategies import randn, repeatable


@repeatable
@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=6), st.integers(0, 9))
def test_hats_over_brightness_are_a_partition_of_unity(edges: list[float], seed: int) -> None:
    maps = 4 * randn(2, 1, 5, 7, seed=seed).float()
    hats = brightness_hats(maps, torch.tensor(sorted(edges)))
    torch.testing.assert_close(hats.sum(0), torch.ones_like(maps), rtol=0, atol=1e-5)
    assert float(hats.min()) >= -1e-6


def test_hats_over_brightness_reproduce_values() -> None:
    maps = randn(2, 1, 5, 7, seed=1).float()
    edges = torch.tensor([-1.0, -0.5, 0.25, 2.0])
    summed = torch.einsum("b,bncyx->ncyx", edges, brightness_hats(maps, edges))
    torch.testing.assert_close(summed, maps.clamp(-1, 2), rtol=0, atol=1e-5)


def test_edges_are_quantiles() -> None:
    maps = torch.arange(100.0).reshape(1, 1, 10, 10)
    assert brightness_edges(maps).tolist() == pytest.approx([0, 30, 80, 95, 99])


def test_local_means_are_over_nine_pixels_of_a_mirrored_map() -> None:
    spike = torch.zeros(1, 1, 6, 6)
    spike[0, 0, 3, 3] = 9.0
    expected = torch.zeros(6, 6)
    expected[2:5, 2:5] = 1.0
    torch.testing.assert_close(local_mean(spike)[0, 0], expected)
    ramp = torch.arange(6.0).expand(1, 1, 6, 6)
    assert local_mean(ramp)[0, 0, 0, 0] == pytest.approx(2 / 3)  # columns 1, 0, 1
