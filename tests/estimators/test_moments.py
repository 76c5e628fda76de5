"""Norms without bias, against simulation and a second way."""

import math

import numpy as np
import pytest
import torch

from ood_core.estimators.moments import norms
from tests.strategies import randn

SHAPE = (1, 8, 8)


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
    assert many.identified and not many.description
    few = norms(mu / 20 + randn(8, *SHAPE, seed=5))
    assert not few.identified
    assert few.description.startswith("mean not identified: n = 8 <")
    none = torch.zeros(2, *SHAPE)
    none[0], none[1] = 1, -1  # the mean is zero, its unbiased squared norm negative
    assert norms(none).needed == math.inf
