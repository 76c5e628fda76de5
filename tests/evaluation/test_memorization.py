"""Memorisation: planted ones are flagged at the stated power, real maps at the stated rate."""

import numpy as np
import pytest
import torch
from scipy import stats

from ood_core.evaluation.evaluate import evaluate_maps
from ood_core.evaluation.features import FeatureExtractor
from ood_core.evaluation.memorization import (
    MAP_NOISES,
    check_latents,
    flag_p_value,
    nearest_others,
    planted_copies,
    power,
    threshold,
)
from ood_core.evaluation.results import EvaluationResult
from ood_core.metrics.one_point import own_units
from ood_core.numerics.random import Root
from tests.oracles import fields

SIDE = 16
DIHEDRAL = ("flip", "rotate90")


def maps(n: int, seed: int) -> torch.Tensor:
    power_law = fields.gaussian(n, SIDE, lambda k: 9 * np.exp(-((2 * k) ** 2)), seed)
    return torch.from_numpy(np.exp(0.5 * power_law).astype(np.float32))


FIT, HELD_OUT = maps(20, 1), maps(150, 2)


def extractor() -> FeatureExtractor:
    return FeatureExtractor.of(FIT, HELD_OUT, DIHEDRAL)


def distances(queries: torch.Tensor) -> torch.Tensor:
    return extractor().nearest_shifted(queries).distance


def test_the_threshold_is_a_rank() -> None:
    values = torch.arange(1.0, 400.0)
    assert threshold(values, 0.01) == (4.0, 0.01)
    assert threshold(values[:350], 0.01) == (3.0, 3 / 351)  # rounded down
    assert threshold(values[:30], 0.01) == (1.0, 1 / 31)  # too few: the rate that they give


def test_the_p_value_is_that_of_ranks() -> None:
    # The least of 9 + 3 exchangeable distances is one of the 3 in 3 of 12 cases.
    assert flag_p_value(1, 3, 9) == pytest.approx(3 / 12)
    assert flag_p_value(3, 3, 9) == pytest.approx(6 / (12 * 11 * 10)) and flag_p_value(0, 3, 9) == 1


def test_real_maps_are_flagged_at_the_stated_rate_only() -> None:
    # Over the draw of the held-out maps, flags of n further ones follow a beta-binomial law.
    fresh, flags = 300, 0
    trials = 4
    all_real = distances(maps(trials * (150 + fresh), 3)).reshape(trials, -1)
    limit = stats.betabinom(fresh, 1, 150).isf(1e-3)
    for row in all_real:
        within, rate = threshold(row[:150])
        assert rate <= 0.01
        flags = int((row[150:] <= within).sum())
        assert flags <= limit


def test_planted_copies_are_flagged_as_the_power_says() -> None:
    within, _ = threshold(distances(HELD_OUT))
    stated = dict(power(extractor(), within, Root(1)))
    assert list(stated) == list(MAP_NOISES)
    assert stated[0.0] == stated[0.1] == stated[0.2] == 1
    assert stated[0.4] >= 0.8 and stated[0.8] < 0.5  # as far off as real maps are: no copy
    for noise in MAP_NOISES:
        share = np.mean(
            [
                float(
                    (distances(planted_copies(extractor(), noise, Root(9), n)) <= within)
                    .float()
                    .mean()
                )
                for n in range(3)
            ]
        )
        # Either share is of 20 targets; the second of three noises each.
        error = (max(stated[noise] * (1 - stated[noise]), 1 / 20) / 20) ** 0.5
        assert abs(share - stated[noise]) < 4 * error


def evaluated(samples: torch.Tensor, domain: torch.Tensor | None = None) -> EvaluationResult:
    return evaluate_maps(samples, FIT, HELD_OUT, DIHEDRAL, Root(0), domain)


def test_every_planted_copy_among_samples_is_counted() -> None:
    samples = maps(100, 5)
    clean = evaluated(samples).memorization
    copies = planted_copies(extractor(), 0.1, Root(4), 0)[:7]
    found = evaluated(torch.cat([samples[7:], copies])).memorization
    assert [check.space for check in found] == ["pixels", "scattering"]
    before = int((distances(samples[7:]) <= found[0].threshold).sum())
    assert found[0].flagged == before + 7
    # Fewer than one in fifty of fresh maps: one is expected of the 150 that set the limit.
    assert all(check.flagged <= 5 for check in clean)
    assert found[0].p_value < 1e-3 < min(check.p_value for check in clean)
    assert found[1].flagged > clean[1].flagged  # moments of noised copies are near as well


def test_maps_of_the_bases_domain_leak_and_real_ones_do_not() -> None:
    white = torch.from_numpy(fields.rng(1).standard_normal((40, 1, SIDE, SIDE)).astype(np.float32))
    real = evaluated(maps(60, 5), white[:20]).leakage
    pulled = evaluated(torch.cat([maps(40, 5), white[20:]]), white[:20]).leakage
    assert real is not None and pulled is not None
    assert (real.share, real.real, real.base, real.samples) == (0, 0, 20, 60)
    assert pulled.share == pytest.approx(20 / 60) and pulled.p_value < 1e-6
    assert evaluated(maps(60, 5)).leakage is None


def latents(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(fields.rng(seed).standard_normal((n, 1, SIDE, SIDE)).astype(np.float32))


def test_each_latent_meets_the_others_alone() -> None:
    near = nearest_others(own_units(torch.cat([latents(3, 1), latents(3, 1).flip(-1)])), DIHEDRAL)
    assert near.target.tolist() == [3, 4, 5, 0, 1, 2] and (near.element == 4).all()
    assert float(near.distance.max()) < 1e-6
    assert float(nearest_others(latents(3, 1), ()).distance.min()) > 1  # 2^1/2 for white noise


def test_fresh_latents_pass_and_a_prior_that_hands_out_targets_does_not() -> None:
    targets = latents(40, 1)
    fresh = check_latents(targets, latents(200, 2), DIHEDRAL, Root(0))
    assert fresh.rate == 1 / 21 and fresh.samples == 200 and fresh.p_value > 1e-3
    handed = torch.cat([latents(160, 2), targets.flip(-1) + 0.5 * latents(40, 3)])
    again = check_latents(targets, handed, DIHEDRAL, Root(0))
    assert again.flagged >= 40 + fresh.flagged / 2 and again.p_value < 0.01
    shares = dict(fresh.power)
    # Noise of s standard deviations leaves a distance of (2 - 2 / (1 + s^2)^1/2)^1/2: 1.32 at 8.
    assert shares[0.5] == shares[1.0] == shares[2.0] == 1 and shares[8.0] < 0.5


def test_fresh_latents_are_flagged_at_the_stated_rate() -> None:
    # Small latents, so that many target sets can be drawn: the share of flags over 60 sets has a
    # standard deviation of one rate / 60^1/2, as the law of a least distance is exponential.
    shares = []
    for seed in range(60):
        targets, drawn = latents(20, 2 * seed)[..., :4, :4], latents(100, 2 * seed + 1)[..., :4, :4]
        shares.append(check_latents(targets, drawn, (), Root(seed)).flagged / 100)
    rate = 1 / 11
    assert abs(np.mean(shares) - rate) < 4 * rate / 60**0.5


def test_a_mixture_of_two_targets_is_seen_as_well() -> None:
    targets = latents(40, 1)
    mixed = (targets[:20] + targets[20:]) / 2**0.5
    assert check_latents(targets, mixed, (), Root(0)).flagged == 20


def test_near_copies_are_not_seen_where_held_out_maps_are_neighbours() -> None:
    """Distances of an autoregression with a correlation of 0.8, which are worth a ninth."""
    rng, trials, m = np.random.default_rng(0), 200, 64
    alarms = {1.0: 0, 1 / 9: 0}
    for _ in range(trials):
        steps = rng.standard_normal(m)
        for i in range(1, m):
            steps[i] = 0.8 * steps[i - 1] + 0.6 * steps[i]
        within, _rate = threshold(torch.from_numpy(np.exp(steps)))
        flagged = int((np.exp(rng.standard_normal(m)) <= within).sum())
        for worth in alarms:
            alarms[worth] += flag_p_value(flagged, m, m, worth=worth) <= 0.01
    assert alarms[1 / 9] <= stats.binom(trials, 0.01).isf(1e-3) < alarms[1.0]
