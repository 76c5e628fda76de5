"""Mixtures of patches against closed forms, an independent posterior and laws that are known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture

from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.diffusion.patches import PatchDenoiser, PatchMixture
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.patches import (
    drawn_patches,
    expectation,
    fit_patches,
    fit_patches_of,
    moments,
    patch_shapes,
    patch_stride,
)
from tests.strategies import randn

LINEAR = NoiseSchedule.linear()
T = LINEAR.index_of(0.5)
ALPHA, NOISE = float(LINEAR.alpha[T]), LINEAR.noise_to_signal(T)


def spec(count: int) -> CalibrationSpec:
    return CalibrationSpec(patches=count)


def white(variance: float, side: int = 5, scale: int = 1, mean: float = 0.0) -> PatchMixture:
    size = side**2
    return PatchMixture(
        weights=torch.ones(1),
        means=torch.full((1, size), mean),
        values=torch.full((1, size), variance),
        vectors=torch.eye(size)[None],
        side=side,
        scale=scale,
        stride=max(1, side // 4),
    )


def random_mixture(members: int, side: int) -> PatchMixture:
    size = side**2
    factors = randn(members, size, size, seed=3)
    values, vectors = torch.linalg.eigh(factors @ factors.transpose(1, 2) / size)
    return PatchMixture(
        weights=torch.softmax(randn(members, seed=4), 0),
        means=randn(members, size, seed=5),
        values=values,
        vectors=vectors,
        side=side,
        scale=1,
        stride=max(1, side // 4),
    )


def kinds(n: int, seed: int) -> Maps:
    """Half of the maps are white with spread 0.1, the other half with 0.8."""
    spread = torch.tensor([0.1, 0.8]).repeat(n)[:n, None, None, None]
    return spread * randn(n, 1, 16, 16, seed=seed).float()


@pytest.mark.parametrize("side", [2, 5, 8])
def test_a_white_law_shrinks_every_pixel_alike(side: int) -> None:
    y = randn(2, 1, 16, 16, seed=1).float()
    found = PatchDenoiser(LINEAR, white(0.3, side, mean=0.2))(ALPHA * y, T)
    expected = 0.2 + 0.3 / (0.3 + NOISE**2) * (y - 0.2)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)  # float32, values below 4


def test_a_coarse_law_sees_averages_with_less_noise() -> None:
    y = randn(2, 1, 32, 32, seed=2).float()
    found = PatchDenoiser(LINEAR, white(0.3, 5, scale=2))(ALPHA * y, T)
    gain = 0.3 / (0.3 + NOISE**2 / 4)  # the mean of four pixels has a quarter of the variance
    coarse = gain * y.unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1))
    torch.testing.assert_close(found[..., 0, 0], coarse[..., 0, 0], rtol=0, atol=1e-5)
    inner = F.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, inner, rtol=0, atol=1e-5)


def test_the_posterior_is_that_of_dense_algebra() -> None:
    law = random_mixture(3, side=3)
    y = randn(1, 1, 3, 3, seed=6)
    rows = y.flatten(1)
    covariances = [
        (vectors * values) @ vectors.T
        for vectors, values in zip(law.vectors, law.values, strict=True)
    ]
    noised = [cov.numpy() + NOISE**2 * np.eye(9) for cov in covariances]
    odds = np.array(
        [
            float(weight) * multivariate_normal(mean.numpy(), cov).pdf(rows[0].numpy())
            for weight, mean, cov in zip(law.weights, law.means, noised, strict=True)
        ]
    )
    members = [
        mean.numpy() + clean.numpy() @ np.linalg.solve(cov, rows[0].numpy() - mean.numpy())
        for mean, clean, cov in zip(law.means, covariances, noised, strict=True)
    ]
    expected = (odds[:, None] * members).sum(0) / odds.sum()
    found = PatchDenoiser(LINEAR, law)._posterior(rows, NOISE)[0]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)


def test_inside_a_map_only_the_neighbourhood_counts() -> None:
    denoiser = PatchDenoiser(LINEAR, random_mixture(4, side=5))
    y = randn(1, 1, 24, 24, seed=7)
    moved = denoiser(ALPHA * torch.roll(y, (3, 2), (-2, -1)), T)
    expected = torch.roll(denoiser(ALPHA * y, T), (3, 2), (-2, -1))
    inside = (..., slice(8, 16), slice(8, 16))  # 4 pixels of a patch and 3 of the move from an edge
    torch.testing.assert_close(moved[inside], expected[inside], rtol=0, atol=1e-12)
    assert not torch.allclose(moved[..., :2, :2], expected[..., :2, :2])


def test_a_fit_denoises_as_the_law_that_made_the_maps() -> None:
    law = fit_patches(kinds(24, seed=8), 5, 1, spec(2), (), root=1)
    floored = [v + spec(2).min_variance for v in (0.01, 0.64)]
    assert sorted(law.values.mean(1).tolist()) == pytest.approx(floored, rel=0.1)
    fresh = kinds(40, seed=9)
    y = fresh + NOISE * randn(40, 1, 16, 16, seed=10).float()

    def error(mixture: PatchMixture) -> float:
        return float((PatchDenoiser(LINEAR, mixture)(ALPHA * y, T) - fresh).square().mean())

    # With the kind known, a pixel's error is v s^2 / (v + s^2); telling kinds costs next to nothing
    # with 25 pixels. 40 maps of 256 pixels know it to 1.5 %, five times that is allowed.
    known = sum(v * NOISE**2 / (v + NOISE**2) for v in (0.01, 0.64)) / 2
    assert error(law) == pytest.approx(known, rel=0.075)
    assert error(white((0.01 + 0.64) / 2)) > 1.2 * known  # one Gaussian cannot tell them


def test_a_round_is_that_of_scikit_learn() -> None:
    law, least = random_mixture(3, side=3), 1e-4
    rows = torch.cat([2 * mean + randn(50, 9, seed=i) for i, mean in enumerate(law.means)])
    inverse = law.vectors / law.values[:, None] @ law.vectors.transpose(1, 2)
    other = GaussianMixture(
        3, reg_covar=least, max_iter=1, weights_init=law.weights.double().numpy(),
        means_init=law.means.double().numpy(), precisions_init=inverse.double().numpy(),
    )  # fmt: skip
    with pytest.warns(match="did not converge"):
        other.fit(rows.numpy())
    share, _ = expectation(rows, law)
    weights, means, values, vectors = moments(rows, share, least)
    np.testing.assert_allclose(weights, other.weights_, atol=1e-6)
    np.testing.assert_allclose(means, other.means_, atol=1e-5)  # shares below 1e-6 are left out
    found = (vectors * values[:, None]) @ vectors.transpose(1, 2)
    np.testing.assert_allclose(found, other.covariances_, atol=1e-4)


def test_a_fit_is_a_function_of_maps_and_root() -> None:
    maps = kinds(12, seed=11)
    one, same = (fit_patches(maps, 5, 1, spec(4), ("flip",), root=2) for _ in range(2))
    assert torch.equal(one.means, same.means)
    assert torch.equal(one.values, same.values)
    assert not torch.equal(one.means, fit_patches(maps, 5, 1, spec(4), ("flip",), root=3).means)


def test_fits_side_by_side_are_those_one_by_one() -> None:
    maps = kinds(12, seed=12)
    sets = (maps, maps[1::2], maps[0::2])
    found = fit_patches_of(sets, spec(3), (), root=4)
    for given, laws in zip(sets, found, strict=True):
        for law, (side, scale) in zip(laws, patch_shapes(1, 16, 16), strict=True):
            alone = fit_patches(given, side, scale, spec(3), (), root=4)
            # One thread or several: rounding of sums in double precision, then float32.
            torch.testing.assert_close(law.means, alone.means, rtol=0, atol=1e-5)
            torch.testing.assert_close(law.values, alone.values, rtol=0, atol=1e-5)


@pytest.mark.parametrize("least", [1e-5, 1e-2])
def test_no_direction_is_certain(least: float) -> None:
    flat = torch.zeros(6, 1, 16, 16)
    law = fit_patches(flat, 5, 1, CalibrationSpec(patches=4, min_variance=least), (), root=1)
    torch.testing.assert_close(law.values, torch.full_like(law.values, least))  # nothing but it


def test_patches_leave_no_pixel_out() -> None:
    """A law that believes the map gives it back, wherever its patches begin."""
    y = randn(2, 1, 17, 17, seed=13).float()
    for side in (4, 5, 7, 8):
        stride = patch_stride(side)
        assert stride == {4: 2, 5: 2, 7: 3, 8: 3}[side]
        believing = PatchDenoiser(LINEAR, replace(white(1e9, side), stride=stride))
        # Gain of 1 / (1 + 0.25 / 1e9) in float32.
        torch.testing.assert_close(believing(ALPHA * y, T), y, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 32, 32), [(5, 1), (8, 1), (8, 2)]),
        ((3, 32, 32), [(5, 1), (5, 2)]),
        ((1, 16, 16), [(5, 1), (8, 1)]),
        ((1, 33, 33), [(5, 1), (8, 1), (8, 2)]),
        ((1, 64, 90), [(5, 1), (8, 1), (8, 2)]),
        ((4, 8, 8), []),
    ],
)
def test_patches_have_room_in_the_map(
    shape: tuple[int, int, int], expected: list[tuple[int, int]]
) -> None:
    assert patch_shapes(*shape) == expected


def test_patches_are_drawn_once_each_from_all_places() -> None:
    """Of a map whose pixels are their own numbers every patch says where it lies."""
    maps = torch.arange(2 * 6 * 7.0).reshape(2, 1, 6, 7)
    rows = drawn_patches(maps, 3, 1, np.random.default_rng(0))
    corners = [number for number in range(84) if number % 7 < 5 and number // 7 % 6 < 4]
    assert sorted(rows[:, 0].tolist()) == corners
    window = torch.tensor([0, 1, 2, 7, 8, 9, 14, 15, 16])
    torch.testing.assert_close(rows, rows[:, :1] + window)
    averaged = drawn_patches(maps, 2, 2, np.random.default_rng(0))
    assert len(averaged) == 2 * 2 * (2 + 1)  # on the grid, and a pixel beyond it
    assert averaged[:, 0].min() == 4  # the mean of 0, 1, 7 and 8
