"""The one-point law against closed forms: shifts, scalings, uniform quantiles, counted pixels."""

import pytest
import torch
from scipy.stats import wasserstein_distance

from ood_core.metrics.one_point import (
    cumulative,
    cumulative_distance,
    quantiles,
    uniform_edges,
)


def noise(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_the_table_of_cumulative_fractions_gives_the_exact_distance() -> None:
    a, b = noise(30), 1.3 * noise(20, seed=1) + 0.2
    edges = uniform_edges(torch.cat([a, b]), 1000, tail=0.0)
    table = cumulative_distance(cumulative(a, edges), cumulative(b, edges), edges)
    exact = wasserstein_distance(a.flatten().numpy(), b.flatten().numpy())
    assert table == pytest.approx(exact, rel=0.01)


def test_quantiles_of_a_ramp() -> None:
    ramp = torch.arange(101.0).reshape(1, 1, 1, 101)
    levels = torch.tensor([0.0, 0.255, 1.0])
    torch.testing.assert_close(
        quantiles(ramp, levels)[0], torch.tensor([0.0, 25.5, 100.0]).double()
    )


def test_a_constant_field_has_bins_of_some_width() -> None:
    edges = uniform_edges(torch.full((2, 1, 4, 4), 7.0), 10)
    assert (edges.diff(dim=-1) > 0).all()
