"""Norms without bias and shrunk means, against simulation and a second way."""

import math

import numpy as np
import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.estimators.moments import group_mean, norms, shrunk_mean
from ood_core.estimators.spectra import mode_powers
from ood_core.numerics.covariance import filtered, wavenumbers
from ood_core.numerics.symmetry import orbit
from tests.strategies import randn

SHAPE = (1, 8, 8)
DIHEDRAL: tuple[Symmetry, ...] = ("flip", "rotate90")


def test_squared_norm_is_the_mean_product_of_different_maps() -> None:
    some = randn(5, *SHAPE, seed=1) + 0.3
    rows = some.flatten(1).numpy()
    gram = rows @ rows.T
    expected = (gram.sum() - np.trace(gram)) / 20
    found = norms(some)
    assert found.mean_square == pytest.approx(expected, rel=1e-12)
    assert found.variance == pytest.approx(rows.var(0, ddof=1).mean(), rel=1e-12)


def bias(estimator: str, n: int = 4, fits: int = 3000) -> float:
    """Deviation of the mean estimate of `|mu|^2` from the truth, in standard errors."""
    mu = 0.4 * randn(*SHAPE, seed=2)
    draws = mu + randn(fits, n, *SHAPE, seed=3)
    found = [
        norms(some).mean_square if estimator == "unbiased" else float((some.mean(0) ** 2).sum())
        for some in draws
    ]
    return abs(np.mean(found) - float((mu**2).sum())) / (np.std(found) / math.sqrt(fits))


def test_squared_norm_has_no_bias() -> None:
    assert bias("unbiased") < 5
    assert bias("raw") > 50  # negative control: sigma^2 d / n = 16 beside a truth of about 10


def test_a_mean_is_identified_where_it_is_longer_than_its_noise() -> None:
    mu = torch.full(SHAPE, 0.5, dtype=torch.float64)  # |mu|^2 = 16, so that n* = 64 / 16 = 4
    many = norms(mu + randn(4000, *SHAPE, seed=4))
    # The relative error of |mu|^2 is 2 sigma / (|mu| sqrt(n)) = 0.8 %, five of them 4 %.
    assert many.needed == pytest.approx(4, rel=0.04)
    assert many.identified
    assert not norms(mu / 20 + randn(8, *SHAPE, seed=5)).identified
    none = torch.zeros(2, *SHAPE)
    none[0], none[1] = 1, -1  # the mean is zero, its unbiased squared norm negative
    assert norms(none).needed == math.inf


def shrunk_error(mu: torch.Tensor, n: int = 8, fits: int = 60) -> tuple[float, float]:
    """Mean squared errors of the shrunk and of the raw mean, over that of the raw one in theory."""
    shrunk = raw = 0.0
    for fit in range(fits):
        some = (mu + randn(n, *mu.shape, seed=100 + fit)).float()
        shrunk += float(((shrunk_mean(some, ()) - mu) ** 2).sum())
        raw += float(((some.mean(0) - mu) ** 2).sum())
    scale = fits * mu.numel() / n
    return shrunk / scale, raw / scale


def test_shrinkage_helps_a_smooth_mean_and_hardly_harms_a_rough_one() -> None:
    low = (wavenumbers(16, 16) < 0.15).double()
    smooth = filtered(3 * randn(1, 16, 16, seed=6), low)
    shrunk, raw = shrunk_error(smooth)
    # Over 60 fits of 256 pixels the raw error is known to sqrt(2 / 15360) = 1.1 %.
    assert raw == pytest.approx(1, abs=0.06)
    # A tenth of the modes carry the mean. Where there is none, a band of m modes leaves
    # E max(0, 1 - chi^2_m / m ...) < 0.3 of the noise for every m of 4 and more.
    assert shrunk < 0.45
    rough, _ = shrunk_error(3 * randn(1, 16, 16, seed=7))
    assert 0.45 < rough < 1.05  # negative control: nothing to gain, and next to nothing lost


def test_shrunk_means_have_the_declared_symmetry() -> None:
    some = randn(6, 2, 6, 6, seed=8).float() + torch.linspace(0, 3, 6)
    mean = shrunk_mean(some, DIHEDRAL)
    for image in orbit(mean[None], DIHEDRAL):
        torch.testing.assert_close(image[0], mean, rtol=0, atol=1e-5)
    plain = shrunk_mean(some, ())
    assert float((plain - plain.flip(-1)).abs().max()) > 1  # negative control: a ramp is kept
    flat = shrunk_mean(some, ("translate",))
    torch.testing.assert_close(flat, some.mean((0, 2, 3))[:, None, None].expand(2, 6, 6))
    torch.testing.assert_close(group_mean(some, ("translate",)), flat)


def test_powers_of_a_mean_fall_where_it_is_noise() -> None:
    some = randn(30, *SHAPE, seed=9).float()
    left = mode_powers(shrunk_mean(some, ())[None], torch.zeros(SHAPE)).real.mean()
    raw = mode_powers(some.mean(0)[None], torch.zeros(SHAPE)).real.mean()
    assert float(left) < 0.5 * float(raw)
