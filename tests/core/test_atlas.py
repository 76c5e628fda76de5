"""The atlas of latents: the plane of largest spread, neighbours, and places under the prior."""

import math

import numpy as np
import pytest
import torch

from ood_core.estimators.gaussian import GaussianPrior
from ood_core.evaluation.atlas import atlas
from ood_core.numerics.covariance import isotropic
from tests.oracles import fields

SHAPE = (1, 8, 8)
PRIOR = GaussianPrior(torch.zeros(SHAPE), isotropic(1.0, SHAPE), 1.0, 0.0)


def white(n: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(fields.rng(seed).standard_normal((n, *SHAPE)).astype(np.float32))


def test_two_groups_part_along_the_first_axis() -> None:
    latents = 0.1 * white(20, 1)
    latents[:10, 0, 0, 0] += 5
    found = atlas(latents, 0.1 * white(30, 2), PRIOR, (), range(20))
    assert found is not None and found.targets.shape == found.draws.shape == (20, 2)
    first, second, draws = found.targets[:10, 0], found.targets[10:, 0], found.draws[:, 0]
    assert (first.mean() - second.mean()).abs() == pytest.approx(5, abs=0.1)
    assert (draws.mean() - second.mean()).abs() < 0.1  # draws are of the second group's kind
    assert found.explained[0] > 0.8 > 0.05 > found.explained[1]


def test_neighbours_and_membership_are_of_whole_latents() -> None:
    latents = white(12, 1)
    latents[7] = latents[3].flip(-1) + 0.01 * white(1, 5)[0]  # no other resembles it
    latents[5] *= 3  # far out under the prior, and as near to others in units of its own
    found = atlas(latents, white(40, 2), PRIOR, ("flip",), range(100, 112))
    assert found is not None
    assert found.neighbour[[3, 7]].tolist() == [107, 103] and float(found.distance[3]) < 0.02
    assert float(found.distance[[i for i in range(12) if i not in (3, 7)]].min()) > 0.8
    assert float(found.membership[5]) == 0 and float(found.membership.max()) > 0.5
    own = -0.5 * (latents[5].square().sum() / 64 + math.log(2 * math.pi))
    assert float(found.log_density[5]) == pytest.approx(float(own), rel=1e-5)


def test_too_few_latents_have_no_atlas() -> None:
    assert atlas(white(1, 1), white(5, 2), PRIOR, (), range(1)) is None
    assert atlas(white(5, 1), white(1, 2), PRIOR, (), range(5)) is None
