"""Of all kinds, left-out maps choose the one that the maps were made of; clusters are found."""

import math
import subprocess
import sys

import pytest
import torch

from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.choice import CANDIDATES, fit_prior
from ood_core.estimators.families import SCORED, scored
from ood_core.estimators.mixture import MixturePrior, fit_mixture_prior
from ood_core.numerics.covariance import Diagonal, Stationary, wavenumbers
from ood_core.numerics.random import SeedRange
from tests.strategies import randn

SHAPE = (1, 8, 8)
EMPTY = torch.empty(0, 0)
RED = Stationary((0.05 / (0.05 + wavenumbers(8, 8)) ** 2)[None])
SAMPLE_KINDS = {"low_rank", "ledoit_wolf", "oas"}
SUMS = {"spectral_low_rank", "spectral_factors"}
"""One law, factors beside a spectrum, in two estimates of it."""


def white(n: int, seed: int) -> torch.Tensor:
    return randn(n, *SHAPE, seed=seed)


def made(kind: str, n: int = 64, seed: int = 1) -> torch.Tensor:
    """Draws of a law of which the kind is the simplest description."""
    match kind:
        case "diagonal":
            ramp = torch.linspace(0.1, 3, 64, dtype=torch.float64).reshape(SHAPE)
            maps = Diagonal(ramp).colour(white(n, seed), EMPTY)
        case "low_rank":
            amounts = 2 * randn(n, 3, seed=seed + 1)
            maps = 0.3 * white(n, seed) + torch.einsum("nk,kcyx->ncyx", amounts, white(3, 50))
        case "spectral":
            maps = RED.colour(white(n, seed), EMPTY)
        case "spectral_factors":
            amounts = 1.5 * randn(n, 2, seed=seed + 1)
            factors = RED.power_of(0.5).apply(white(2, 51))
            spread = torch.einsum("nk,kcyx->ncyx", amounts, factors)
            maps = RED.colour(white(n, seed), EMPTY) + spread
        case _:
            maps = torch.cat(
                [RED.colour(white(n // 2, seed), EMPTY), 0.3 * white(n // 2, seed + 1)]
            )
            maps = maps[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    return maps.float()


@pytest.mark.parametrize(
    "kind", ["diagonal", "low_rank", "spectral", "spectral_factors", "mixture"]
)
def test_the_right_kind_wins(kind: str) -> None:
    _, choice = fit_prior(made(kind), "auto")
    assert set(choice.scores) == set(CANDIDATES)
    right = {"low_rank": SAMPLE_KINDS, "spectral_factors": SUMS}.get(kind, {kind})
    assert choice.kind in right
    assert choice.scores[choice.kind] == max(choice.scores.values())
    assert choice.scores["isotropic"] < choice.scores[choice.kind] - 0.02  # negative control


def test_one_kind_is_fitted_alone_and_scored_as_among_all() -> None:
    maps = made("spectral", 24)
    prior, choice = fit_prior(maps, "spectral")
    assert choice.scores == {"spectral": prior.held_out_log_density}
    _, every = fit_prior(maps, "auto")
    assert every.scores["spectral"] == choice.scores["spectral"]


def test_few_maps_and_translations_leave_fewer_kinds() -> None:
    few = fit_prior(made("spectral", 5), "auto")[1]
    assert "spectral_factors" not in few.scores
    with pytest.raises(PriorUnderdetermined, match="at least 4"):
        fit_prior(made("spectral", 3), "auto")
    prior, moved = fit_prior(made("spectral", 24), "auto", ("translate",))
    assert not SAMPLE_KINDS & set(moved.scores)
    assert float((prior.mean - prior.mean[0, 0, 0]).abs().max()) < 1e-6
    with pytest.raises(PriorUnderdetermined, match="translate.*choose spectral"):
        fit_prior(made("spectral", 24), "oas", ("translate",))


def test_a_mean_that_is_not_identified_is_said() -> None:
    maps = made("spectral", 16)
    assert "mean not identified: n = 16 <" in fit_prior(maps, "isotropic")[1].words
    assert "not identified" not in fit_prior(maps + 5, "isotropic")[1].words


def clusters(kind: str) -> torch.Tensor:
    """Two groups that differ in level, in variance or in nothing."""
    apart = {
        "level": (white(24, 2), 0.0),
        "variance": (white(24, 2), 0.3),
        "same": (white(24, 2), 1.0),
    }
    other, factor = apart[kind]
    second = (
        other + 2 * RED.power_of(0.5).apply(white(1, 60)) if kind == "level" else factor * other
    )
    order = torch.randperm(48, generator=torch.Generator().manual_seed(1))
    return torch.cat([white(24, 3), second])[order].float()


@pytest.mark.parametrize(("kind", "number"), [("level", 2), ("variance", 2), ("same", 1)])
def test_clusters_are_found_and_not_where_there_are_none(kind: str, number: int) -> None:
    found = fit_mixture_prior(clusters(kind))
    assert isinstance(found, MixturePrior)
    assert len(found.laws) == number
    # Of 48 maps of 64 pixels no more than one is taken for the other kind.
    assert float((found.weights - 1 / number).abs().max()) < 1.5 / 48


def test_members_are_drawn_by_their_weights_and_seeds() -> None:
    prior = fit_mixture_prior(clusters("variance"))
    drawn = prior.members(SeedRange(1, 0, 4000))
    share = float((drawn == 0).double().mean())
    assert abs(share - float(prior.weights[0])) < 5 * math.sqrt(0.25 / 4000)
    assert torch.equal(drawn[7:9], prior.members(SeedRange(1, 7, 9)))
    assert not torch.equal(drawn, prior.members(SeedRange(2, 0, 4000)))


def test_many_large_maps_are_scored_on_some() -> None:
    assert len(scored(torch.zeros(10, 1, 2, 2))) == 10
    large = torch.zeros(1).expand(700, 3, 256, 256)
    assert 0 < scored(large).numel() <= SCORED


def test_a_further_kind_does_not_change_what_auto_chooses_from():
    """Under an unchanged identity scheme: the list is spelled out, not derived from the kinds."""
    code = """
from typing import Literal
import ood_core.config.method as specs
specs.PriorKind = Literal[specs.PriorKind, "brand_new"]
from ood_core.estimators.choice import CANDIDATES
assert "brand_new" not in CANDIDATES, CANDIDATES
assert len(CANDIDATES) == 9, CANDIDATES
"""
    subprocess.run([sys.executable, "-c", code], check=True)
