"""Features: each says of a map what the metrics say, whatever maps are beside it."""

import numpy as np
import pytest
import torch
from scipy.stats import norm, wasserstein_distance

from ood_core.evaluation.features import FAMILIES, FeatureExtractor
from ood_core.evaluation.streaming import FeatureSums, pixel_distance, pixel_fractions
from ood_core.metrics.channels import BRIGHT, coherence_distance
from ood_core.metrics.distances import Whitening
from ood_core.metrics.spectra import cross_spectrum, power_spectrum
from tests.oracles import fields

SIDE = 16


def maps(n: int, seed: int, channels: int = 1) -> torch.Tensor:
    rng = fields.rng(seed)
    return torch.from_numpy(rng.gamma(2.0, size=(n, channels, SIDE, SIDE)).astype(np.float32))


def extractor(channels: int = 1) -> FeatureExtractor:
    return FeatureExtractor.of(maps(20, 0, channels), maps(20, 1, channels), ("flip",))


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    found, seven = extractor(2), maps(7, 2, 2)
    together = found.extract(seven)
    for part in (slice(0, 3), slice(3, 7)):
        alone = found.extract(seven[part])
        for name, rows in alone.items():
            # float32 rows of sums in float32 (scattering) or float64: a few of its roundings.
            torch.testing.assert_close(rows, together[name][part], rtol=2e-6, atol=2e-6)


def test_pixels_are_counted_at_the_edges() -> None:
    found = extractor()
    rows, values = found.extract(maps(3, 2)), maps(3, 2).flatten(-2)
    for edge in (0, 40, -1):
        counted = (values <= found.edges[0, edge]).sum(-1)
        assert rows["pixels"][:, :, edge].equal(counted.int())
    assert set(found.histogram_edges[0].tolist()) <= set(found.edges[0].tolist())


@pytest.mark.parametrize("change", [lambda x: x + 0.5, lambda x: 1.3 * x, lambda x: x.clamp(max=2)])
def test_the_distance_of_pixels_is_that_of_all_pixels(change) -> None:
    # The edges hold 1/63 of the pixels between two neighbours or 1/60 of the range, whichever is
    # less; within a cell the trapezium replaces the law by a line: 3 % of the distance at most.
    found, a, b = extractor(), maps(40, 3), maps(20, 1)
    rows = [pixel_fractions(found.extract(m), found).mean(0) for m in (change(a), b)]
    spread = float(found.held_out.double().std())
    exact = wasserstein_distance(change(a).flatten().numpy(), b.flatten().numpy()) / spread
    assert pixel_distance(*rows, found) == pytest.approx(exact, rel=0.03)


@pytest.mark.parametrize(("from_level", "factor", "within"), [(0.9995, 10, 0.02), (0.9995, 0, 0.1)])
def test_heavy_tails_are_measured_on_quantiles(
    from_level: float, factor: float, within: float
) -> None:
    """What differs in one pixel of 2,000 alone, made brighter or cut off."""
    draws = torch.Generator().manual_seed(0)
    fit, held, made = (
        torch.exp(2 * torch.randn(n, 1, 16, 16, generator=draws)) for n in (32, 64, 64)
    )
    top = held.flatten().quantile(from_level)
    made = torch.where(made > top, top + factor * (made - top), made)
    found = FeatureExtractor.of(fit, held, ())
    rows = [pixel_fractions(found.extract(m), found).mean(0) for m in (made, held)]
    exact = wasserstein_distance(made.flatten().numpy(), held.flatten().numpy())
    exact /= float(held.double().std())
    assert pixel_distance(*rows, found) == pytest.approx(exact, rel=within)


def test_what_lies_far_beyond_the_targets_counts_in_full() -> None:
    found, b = extractor(), maps(20, 1)
    rows = [pixel_fractions(found.extract(m), found).mean(0) for m in (b + 1000, b)]
    exact = 1000 / float(found.held_out.double().std())
    assert pixel_distance(*rows, found) == pytest.approx(exact, rel=1e-3)


def test_power_is_that_of_the_spectrum() -> None:
    rows = extractor(2).extract(maps(5, 4, 2))
    torch.testing.assert_close(rows["power"], power_spectrum(maps(5, 4, 2))[1].float())


def test_sums_of_features_are_their_sums() -> None:
    found = extractor()
    rows = found.extract(maps(30, 5))
    whitening = Whitening.fit(found.extract(found.fit)["scattering"])
    sums = FeatureSums.of(rows, whitening)
    assert sums.count == 30
    assert sums.pixels.equal(rows["pixels"].long().sum(0))
    white = whitening(rows["scattering"])
    torch.testing.assert_close(sums.scattering.covariance, white.T.cov())


def test_colours_of_gaussian_channels_are_those_of_their_covariance() -> None:
    # Of N(0, [[A, C], [C, B]]): Var(a - b) = A + B - 2C, and with m = (a + b) / 2 the correlation
    # is (A - B) / ((A + B)^2 - 4 C^2)^1/2. Above the quantile 1 - f of m, at z in its sigma, the
    # mean of m is phi(z) / f, of which the colour follows that correlation. 51,200 pixels: 1 %.
    rng = fields.rng(4)
    both = rng.multivariate_normal([1.0, 0.4], [[4.0, 1.2], [1.2, 1.0]], (200, SIDE, SIDE))
    maps = torch.from_numpy(np.moveaxis(both, -1, 1))
    mean, spread, follows, bright = FAMILIES["colours"](maps).mean(0).tolist()
    expected = 3 / (25 - 4 * 1.44) ** 0.5
    count = round(BRIGHT * SIDE**2)
    z = norm.ppf(1 - count / SIDE**2)
    assert mean == pytest.approx(0.6, abs=0.04)
    assert np.exp(spread) == pytest.approx(2.6**0.5, rel=0.01)
    assert follows == pytest.approx(expected, rel=0.01)
    assert bright == pytest.approx(expected * norm.pdf(z) * SIDE**2 / count, rel=0.03)
    assert FAMILIES["colours"](torch.zeros(3, 2, SIDE, SIDE)).isfinite().all()


def test_coherence_error_is_the_difference_of_correlations() -> None:
    """Of b = r a + (1 - r^2)^1/2 e every mode has coherence r, so 0.8 is 0.6 from 0.2."""

    def cross(r: float, seed: int) -> torch.Tensor:
        a, e = fields.rng(seed).standard_normal((2, 400, 1, SIDE, SIDE))
        both = np.concatenate([a, r * a + (1 - r**2) ** 0.5 * e], axis=1)
        return cross_spectrum(torch.from_numpy(both))[1]

    # The lowest annulus has 8 modes, half of them free, of 400 maps: an error of some 0.03.
    assert coherence_distance(cross(0.8, 1), cross(0.2, 2)) == pytest.approx(0.6, abs=0.03)
    assert coherence_distance(cross(0.8, 1), cross(0.8, 2)) < 0.03


def test_what_channels_share_is_their_correlation() -> None:
    # b = r a + (1 - r^2)^1/2 e of white noise: every mode of 256 has coherence r, and in shells of
    # hundreds of modes over 200 maps the mean error is below 0.01. Third moments of a^2 b are
    # r times that of a^3: 2 / 2^1/2 for a gamma law of shape 2.
    r, rng = 0.6, fields.rng(3)
    a, e = (rng.gamma(2.0, size=(200, 1, SIDE, SIDE)) for _ in range(2))
    both = torch.from_numpy(np.concatenate([a, r * a + 0.8 * e], axis=1))
    found = FAMILIES["channels"](both)
    assert found.shape == (200, 4 + 2)
    np.testing.assert_allclose(found[:, :4].mean(0), r, atol=0.03)
    assert float(found[:, 4].mean()) == pytest.approx(r * 2**0.5, rel=0.1)
    assert not FAMILIES["channels"].applies_to(both[:, :1])
    flat = torch.zeros(3, 3, SIDE, SIDE)
    assert FAMILIES["channels"](flat).eq(0).all()
