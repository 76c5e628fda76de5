"""Scales of an evaluation: constant channels, odd sides, sizes that are compared."""

import numpy as np
import pytest
import torch
from scipy import stats

from ood_core.evaluation.evaluate import evaluate_maps, nearest_score
from ood_core.metrics.distances import Whitening
from ood_core.metrics.scattering import MIN_MODULUS, Scattering, morlet_bank
from ood_core.numerics.random import Root
from tests.oracles.fields import power_law


def constant_channel(n: int, seed: int) -> torch.Tensor:
    return torch.cat([power_law(n, 16, seed=seed), torch.full((n, 1, 16, 16), 0.25)], 1)


def test_rounding_in_a_constant_channel_changes_no_score() -> None:
    fit, held, samples = (constant_channel(n, s) for n, s in ((32, 1), (32, 2), (64, 3)))
    rounded = samples.clone()
    noise = torch.randn(64, 16, 16, generator=torch.Generator().manual_seed(0))
    rounded[:, 1] += 1e-5 * noise
    one, other = (evaluate_maps(s, fit, held, (), Root(1)).scores for s in (samples, rounded))
    assert one["fsd"].whole is not None
    for name in ("fsd", "c2st"):
        assert other[name].value == pytest.approx(one[name].value, rel=1e-3)
    shifted = samples + torch.tensor([0.0, 0.5])[:, None, None]
    far = evaluate_maps(shifted, fit, held, (), Root(1)).scores
    assert far["pixel_wasserstein"].value > 3 * one["pixel_wasserstein"].high  # and yet compared


def test_features_that_do_not_vary_have_no_weight_and_others_keep_theirs() -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    still = torch.cat([rows, torch.full((50, 1), 7.0)], 1)
    whitening = Whitening.fit(still)
    torch.testing.assert_close(whitening(still)[:, :3], Whitening.fit(rows)(rows))
    assert not whitening(still + torch.tensor([0.0, 0, 0, 1e-3]))[:, 3].any()
    assert not Whitening.fit(torch.ones(4, 2))(torch.randn(3, 2)).any()


@pytest.mark.parametrize(("size", "thinned"), [(22, False), (26, False), (28, True), (32, False)])
def test_moduli_on_an_odd_thinned_grid_are_those_of_the_full_one(size: int, thinned: bool) -> None:
    scattering, maps = Scattering(size, thinned=thinned), power_law(8, size, seed=1)
    bank = morlet_bank(size, 2, 4)
    modes = torch.fft.fft2(maps[:, 0])
    full = torch.fft.ifft2(modes[:, None] * bank).abs().mean((-2, -1))
    got = scattering.log_moments(maps)[:, 8:12].exp() - MIN_MODULUS  # first moments of scale 2
    # A thinned bank leaves out the outer part of the band, which lowers and never raises it.
    assert 0.9 < float((got / full).mean()) < 1.02


@pytest.mark.parametrize(("n", "m"), [(8, 320), (16, 320), (64, 64), (1024, 64), (1024, 16)])
def test_the_band_of_the_nearest_ratio_holds_nine_of_ten_sets_of_any_size(n: int, m: int) -> None:
    rng, trials, outside = np.random.default_rng(1), 40, 0
    for trial in range(trials):
        samples, real = (torch.from_numpy(rng.gamma(20, size=size)) for size in (n, m))
        outside += not nearest_score(samples, real, Root(trial)).inside
    # 10 % are due; a bootstrap of 16 maps knows their median less well than it thinks.
    due = 0.10 if m > 16 else 0.2
    assert outside <= stats.binom(trials, due).isf(1e-3)
