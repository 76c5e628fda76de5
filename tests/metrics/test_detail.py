"""Detail is measured where it lies: global averages that are the same do not hide its place."""

import math

import pytest
import torch

from ood_core.metrics.detail import RANKS, detail_features
from tests.strategies import randn

SIDE = 32


def maps(rough_where_bright: float, count: int = 64) -> torch.Tensor:
    """A smooth wave of height 5 with white noise of one spread on its upper half, another below.

    The mean power of both kinds of noise is the same.
    """
    wave = 5 * torch.cos(math.pi * (torch.arange(SIDE) + 0.5) / SIDE).expand(count, 1, SIDE, SIDE)
    bright = (wave > 0).float()
    noise = 0.5 * randn(count, 1, SIDE, SIDE, seed=1).float()
    share = bright * rough_where_bright + (1 - bright) * (2 - rough_where_bright)
    return wave + share.sqrt() * noise


def test_the_spread_in_each_bin_is_that_of_its_noise() -> None:
    """White noise less its mean over 9 pixels has 8/9 of its power."""
    some = maps(1.5)
    found = detail_features(some).exp().mean(0) * float(some.flatten(1).std(1).mean())
    assert len(found) == len(RANKS) - 1
    # 64 x 500 pixels are known to 0.4 %; the wave's own bend adds 2 % where noise is weak.
    assert float(found[0]) == pytest.approx(0.5 * math.sqrt(0.5 * 8 / 9), rel=0.04)
    assert float(found[2]) == pytest.approx(0.5 * math.sqrt(1.5 * 8 / 9), rel=0.04)


def test_where_detail_lies_is_seen_though_its_power_is_the_same() -> None:
    smooth, rough = detail_features(maps(0.5)), detail_features(maps(1.5))
    assert float((rough - smooth)[:, -2].min()) > 0.3 > -0.3 > float((rough - smooth)[:, 0].max())
    again = detail_features(maps(0.5, 32))  # negative control
    assert float((again.mean(0) - smooth.mean(0)).abs().max()) < 0.05


def test_units_do_not_matter() -> None:
    some = maps(1.0, 4)
    torch.testing.assert_close(
        detail_features(7 * some + 3), detail_features(some), atol=1e-3, rtol=0
    )
    assert bool(torch.isfinite(detail_features(torch.full((2, 1, 8, 8), 0.3))).all())
