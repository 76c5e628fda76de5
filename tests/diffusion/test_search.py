"""Decoding that prefers: with one candidate ancestral sampling, with more a higher score."""

import math

import pytest
import torch

from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.search import search
from ood_core.numerics.covariance import isotropic
from ood_core.numerics.random import SeedRange, normal

SCHEDULE = NoiseSchedule.linear()
SHAPE, COUNT = (1, 4, 4), 400
DENOISER = GaussianDenoiser(SCHEDULE, torch.zeros(SHAPE), isotropic(1.0, SHAPE))
GRID = SCHEDULE.log_snr_grid(9, SCHEDULE.index_of(12.0), SCHEDULE.index_of(0.02))
SEEDS = SeedRange(3, 0, COUNT)
LATENTS = normal(SEEDS, SHAPE)


def score(maps):
    return maps.flatten(1).mean(dim=1)


def searched(candidates, temperature=0.0):
    return search(DENOISER, LATENTS, GRID, SEEDS, score, candidates, temperature)


def test_one_candidate_is_ancestral_sampling():
    made = decode(DENOISER, "ancestral", LATENTS, GRID, SEEDS)
    assert torch.allclose(searched(1), made, atol=1e-5)


def test_more_candidates_score_better():
    """The mean of 400 scores of spread 1/4 errs by 0.0125; steps of 0.1 are eight of these."""
    means = [float(score(searched(candidates)).mean()) for candidates in (1, 2, 8)]
    assert abs(means[0]) < 4 * 0.0125
    assert means[1] > means[0] + 0.1 and means[2] > means[1] + 0.1


def test_an_infinite_temperature_chooses_nothing_and_a_low_one_the_best():
    assert abs(float(score(searched(8, math.inf)).mean())) < 4 * 0.0125
    best, cold = score(searched(4)), score(searched(4, 1e-6))
    assert torch.allclose(best, cold, atol=1e-5)


@pytest.mark.parametrize("candidates", [1, 3])
def test_a_map_depends_on_its_own_seed_alone(candidates):
    part = search(
        DENOISER, LATENTS[5:9], GRID, SeedRange(3, 5, 9), score, candidates, temperature=0.1
    )
    assert torch.allclose(part, searched(candidates, 0.1)[5:9], atol=1e-5)
