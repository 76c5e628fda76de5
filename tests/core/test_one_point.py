"""The one-point law against closed forms: shifts, scalings, uniform quantiles, counted pixels."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.metrics.one_point import (
    cumulative,
    cumulative_distance,
    histogram,
    quantile_edges,
    quantiles,
    standardised,
    uniform_edges,
    wasserstein,
)


def noise(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


@given(st.floats(-3, 3))
def test_a_shift_is_its_own_wasserstein_distance(shift: float) -> None:
    maps = noise(4).double()
    assert wasserstein(maps + shift, maps) == pytest.approx(abs(shift), abs=1e-9)


def test_scaled_gaussians_are_apart_by_the_mean_absolute_deviation() -> None:
    # W1(N(0, 1), N(0, 4)) = (2 - 1) E|X|, which for the very same draws is the mean of |x|.
    maps = noise(8)
    maps = maps - maps.mean()
    symmetric = torch.cat([maps, -maps])
    expected = float(symmetric.abs().mean())
    assert wasserstein(2 * symmetric, symmetric) == pytest.approx(expected, rel=1e-5)


def test_sets_of_other_sizes_with_the_same_law_are_at_distance_zero() -> None:
    maps = noise(3)
    assert wasserstein(torch.cat([maps, maps]), maps) == pytest.approx(0, abs=1e-9)


def test_the_table_of_cumulative_fractions_gives_the_exact_distance() -> None:
    a, b = noise(30), 1.3 * noise(20, seed=1) + 0.2
    edges = quantile_edges(torch.cat([a, b]))
    table = cumulative_distance(cumulative(a, edges), cumulative(b, edges), edges)
    assert table == pytest.approx(wasserstein(a, b), rel=0.01)


def test_quantiles_of_a_ramp() -> None:
    ramp = torch.arange(101.0).reshape(1, 1, 1, 101)
    levels = torch.tensor([0.0, 0.255, 1.0])
    torch.testing.assert_close(
        quantiles(ramp, levels)[0], torch.tensor([0.0, 25.5, 100.0]).double()
    )


def test_histogram_integrates_to_one_inside_its_edges() -> None:
    maps = noise(5)
    edges = uniform_edges(maps, 20, tail=0.0)
    edges[:, -1] += 1e-6
    mass = (histogram(maps, edges) * edges.diff(dim=-1)).sum(-1)
    torch.testing.assert_close(mass, torch.ones(5, 1).double())


def test_a_constant_field_has_bins_of_some_width() -> None:
    edges = uniform_edges(torch.full((2, 1, 4, 4), 7.0), 10)
    assert (edges.diff(dim=-1) > 0).all()


def test_standardised_maps_are_in_units_of_the_reference() -> None:
    maps = torch.cat([noise(6), 5 + 3 * noise(6, seed=1)], dim=1).double()
    own = standardised(maps, maps).transpose(0, 1).flatten(1)
    torch.testing.assert_close(own.mean(1), torch.zeros(2).double())
    torch.testing.assert_close(own.std(1, correction=0), torch.ones(2).double())
    torch.testing.assert_close(standardised(2 * maps + 7, 2 * maps + 7), standardised(maps, maps))
    assert (standardised(torch.full((2, 1, 4, 4), 7.0), torch.full((2, 1, 4, 4), 7.0)) == 0).all()
