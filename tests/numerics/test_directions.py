"""Shared directions: a planted one is found, independent ones are not, and p-values are fair."""

import numpy as np
import pytest
import torch

from ood_core.errors import TargetError
from ood_core.numerics.sphere import frechet_mean, project
from ood_core.synthesis.walks import Shared, mean_cosine, shared_directions
from tests.strategies import randn


def latents(n: int, d: int, seed: int, planted: float = 0.0) -> tuple[torch.Tensor, np.ndarray]:
    """White latents; the attribute moves them along one direction by `planted` per unit."""
    values = randn(n, seed=seed)
    rows = randn(n, d, seed=seed + 1)
    rows[:, 0] += planted * values
    return project(rows.reshape(n, 1, 1, d))[0], values.numpy()


def shared(points: torch.Tensor, values: np.ndarray, seed: int, permutations: int) -> Shared:
    rng = np.random.default_rng(seed)
    return shared_directions(points, {"attribute": values}, rng, permutations)["attribute"]


def test_a_planted_direction_is_shared() -> None:
    points, values = latents(45, 400, 1, planted=6.0)
    found = shared(points, values, 0, 199)
    assert found.pairs == 15
    assert found.cosine > found.null_high
    assert found.p_value == 1 / 200


def test_independent_latents_share_none_and_p_values_are_uniform() -> None:
    """Of 60 tests, those with p <= 0.25 are binomial: within four standard errors of a quarter."""
    p_values = []
    for seed in range(60):
        points, values = latents(12, 30, 100 + 3 * seed)
        p_values.append(shared(points, values, seed, 39).p_value)
    share = np.mean(np.array(p_values) <= 0.25)
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 60)


def test_the_mean_cosine_is_that_of_all_pairs_of_directions() -> None:
    points, _ = latents(8, 6, 5)
    at = frechet_mean(points)[None]
    starts, ends = np.array([0, 1, 2]), np.array([3, 4, 5])
    singles = []
    for i in range(3):
        for j in range(3):
            if i != j:
                pair = (
                    [np.array([starts[k]]) for k in (i, j)],
                    [np.array([ends[k]]) for k in (i, j)],
                )
                both = np.concatenate(pair[0]), np.concatenate(pair[1])
                singles.append(mean_cosine(points, at, *both))
    assert mean_cosine(points, at, starts, ends) == pytest.approx(np.mean(singles))
    assert mean_cosine(points, at, starts[[0, 0]], ends[[0, 0]]) == pytest.approx(1.0)


def test_few_latents_make_no_pairs() -> None:
    points, values = latents(8, 30, 6)
    with pytest.raises(TargetError, match="9 or more"):
        shared(points, values, 0, 9)
