"""Covariances under symmetry groups have no bias; rounding and bad scores decide nothing."""

import math

import pytest
import torch

from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.choice import fit_prior
from ood_core.estimators.families import fit_family, fit_gaussian, likeliest
from ood_core.estimators.gaussian import estimate
from ood_core.estimators.moments import group_mean, unbiased_residuals
from ood_core.estimators.spectra import Spectra
from ood_core.numerics.random import SeedRange
from tests.oracles.fields import power_law

GROUPS = [(), ("flip",), ("flip", "rotate90"), ("translate",)]


def white(n: int, seed: int, side: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, side, side, generator=generator)


@pytest.mark.parametrize("symmetries", GROUPS)
@pytest.mark.parametrize("n", [2, 8])
def test_the_power_of_white_maps_is_one_whatever_the_group(symmetries: tuple, n: int) -> None:
    draws = range(60)
    maps = [white(n, seed) for seed in draws]
    found = [Spectra.measure(x, group_mean(x, symmetries), symmetries) for x in maps]
    powers = torch.stack([spectra.modes.real.mean() for spectra in found])
    low_rank = [estimate(x, "spectral_low_rank", 1.0, symmetries)[1].trace() / 256 for x in maps]
    families = {"diagonal": 1.0} | ({} if "translate" in symmetries else {"low_rank": 1.0})
    others = [
        [fit_family(x, kind, symmetries).at(share)[1].trace() / 256 for x in maps]
        for kind, share in families.items()
    ]
    # A mean power of n maps of 256 pixels has a variance of 2 / (256 (n - 1)) at most.
    error = (2 / (256 * (n - 1) * len(draws))) ** 0.5
    for values in (powers, torch.tensor(low_rank), *map(torch.tensor, others)):
        assert abs(float(values.mean()) - 1) < 5 * error


def test_the_zero_mode_alone_is_corrected_under_translations() -> None:
    x = white(3, 1)
    mean = group_mean(x, ("translate",))
    modes = Spectra.measure(x, mean, ("translate",)).modes[0, 0].real
    raw = (torch.fft.fft2((x - mean).double(), norm="ortho").abs() ** 2).mean(0)[0]
    torch.testing.assert_close(modes[1:], raw[1:], rtol=1e-6, atol=1e-9)
    assert float(modes[0, 0] / raw[0, 0]) == pytest.approx(3 / 2, rel=1e-6)


def test_without_symmetries_residuals_are_those_of_n_minus_one() -> None:
    x = white(5, 2)
    expected = (x - x.mean(0)) * math.sqrt(5 / 4)
    torch.testing.assert_close(unbiased_residuals(x, ()), expected)


def test_channels_that_are_multiples_of_one_another_stay_positive_definite() -> None:
    x = power_law(12, 64, 4.0, seed=1)
    x = torch.cat([x, 0.7 * x, 1.3 * x], 1)
    spectra = Spectra.measure(x, group_mean(x, ()), ())
    for share in (0.0, 0.3, 1.0):
        law = spectra.at(share)
        drawn = law.colour(torch.randn(2, 3, 64, 64), torch.zeros(2, 0))
        assert bool(drawn.isfinite().all()) and math.isfinite(law.logdet())
        assert float(drawn.var()) < 100 * float(x.var())
    prior = fit_gaussian(x, "spectral")
    assert math.isfinite(prior.held_out_log_density)
    assert bool(prior.sample(SeedRange(1, 0, 2)).isfinite().all())


def test_a_score_that_is_no_number_is_never_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([math.nan, math.nan, 1.0, 1.0, math.inf, 0.0, 0.5, 0.5, 0.0, 0.0])
    monkeypatch.setattr("ood_core.estimators.families.score", lambda *_: next(scores))
    assert likeliest(white(8, 1), "spectral", ()) == (1, 1.0)


@pytest.mark.parametrize("maps", [torch.ones(8, 1, 16, 16), 1e30 * white(8, 1)])
def test_equal_or_huge_latents_give_one_clear_error(maps: torch.Tensor) -> None:
    with pytest.raises(PriorUnderdetermined, match="no finite likelihood"):
        fit_prior(maps, "auto")


@pytest.mark.parametrize("kind", ["auto", "isotropic", "spectral"])
def test_two_latents_are_too_few_to_say_how_likely_others_are(kind: str) -> None:
    with pytest.raises(PriorUnderdetermined, match="needs at least 4"):
        fit_prior(white(2, 1), kind)
