"""Algebra of covariances against dense matrices in float64."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.numerics.covariance import (
    Covariance,
    LowRank,
    Stationary,
    filtered,
    isotropic,
    wavenumbers,
)
from tests.oracles import gaussian
from tests.strategies import COVARIANCES, diagonal, randn, repeatable, seeds, shapes, stationary

kinds = st.sampled_from(sorted(COVARIANCES))
Shape = tuple[int, int, int]
# Conditions of these covariances stay below 1e3 and sizes below 100, so that float64 algebra is
# right to 1e3 * 100 * 1.1e-16 = 1e-11, here with a factor of ten.
EXACT = 1e-10


@repeatable
@given(kinds, shapes, seeds)
def test_solve_inverts_apply(kind: str, shape: Shape, seed: int) -> None:
    cov, x = COVARIANCES[kind](shape, seed), randn(3, *shape, seed=seed + 5)
    torch.testing.assert_close(cov.solve(cov.apply(x)), x, rtol=0, atol=EXACT)
    torch.testing.assert_close(cov.apply(cov.solve(x)), x, rtol=0, atol=EXACT)


@repeatable
@given(kinds, shapes, seeds)
def test_apply_is_symmetric_and_positive(kind: str, shape: Shape, seed: int) -> None:
    matrix = gaussian.dense(COVARIANCES[kind](shape, seed).apply, shape)
    np.testing.assert_allclose(matrix, matrix.T, atol=EXACT)
    assert np.linalg.eigvalsh(matrix).min() > 0


@repeatable
@given(kinds, shapes, seeds)
def test_colour_has_the_covariance_of_apply(kind: str, shape: Shape, seed: int) -> None:
    cov = COVARIANCES[kind](shape, seed)
    d, r = int(np.prod(shape)), cov.rank
    unit = torch.eye(d + r, dtype=torch.float64)
    columns = cov.colour(unit[:, :d].reshape(-1, *shape), unit[:, d:]).reshape(d + r, d).numpy()
    np.testing.assert_allclose(columns.T @ columns, gaussian.dense(cov.apply, shape), atol=EXACT)


@repeatable
@given(kinds, shapes, seeds)
def test_logdet_and_trace_are_those_of_the_matrix(kind: str, shape: Shape, seed: int) -> None:
    cov = COVARIANCES[kind](shape, seed)
    matrix = gaussian.dense(cov.apply, shape)
    assert cov.logdet() == pytest.approx(np.linalg.slogdet(matrix)[1], abs=EXACT)
    assert cov.trace() == pytest.approx(np.trace(matrix), rel=EXACT)


@repeatable
@given(kinds, shapes, seeds, st.floats(0, 1e4))
def test_white_noise_adds_to_the_diagonal(
    kind: str, shape: Shape, seed: int, variance: float
) -> None:
    cov = COVARIANCES[kind](shape, seed)
    noised = cov.plus_white(variance)
    d = int(np.prod(shape))
    expected = gaussian.dense(cov.apply, shape) + variance * np.eye(d)
    np.testing.assert_allclose(gaussian.dense(noised.apply, shape), expected, rtol=1e-12, atol=1e-9)
    assert isinstance(noised, Covariance)
    assert noised.rank == cov.rank


@repeatable
@given(shapes, seeds, st.integers(1, 8))
def test_woodbury_is_the_dense_inverse(shape: Shape, seed: int, rank: int) -> None:
    base = diagonal(shape, seed) if seed % 2 else stationary(shape, seed)
    factors = randn(rank, *shape, seed=seed + 1)
    matrix = gaussian.dense(base.apply, shape) + gaussian.flat(factors).T @ gaussian.flat(factors)
    cov = LowRank(base, factors)
    np.testing.assert_allclose(gaussian.dense(cov.apply, shape), matrix, atol=EXACT)
    np.testing.assert_allclose(gaussian.dense(cov.solve, shape), np.linalg.inv(matrix), atol=EXACT)


@repeatable
@given(shapes, seeds)
def test_stationary_is_diagonal_in_fourier_space(shape: Shape, seed: int) -> None:
    cov = stationary(shape, seed)
    circulant = gaussian.circulant(cov.power.numpy())
    np.testing.assert_allclose(gaussian.dense(cov.apply, shape), circulant, atol=EXACT)


@repeatable
@given(shapes, seeds, st.integers(0, 4), st.integers(0, 4))
def test_stationary_commutes_with_shifts(shape: Shape, seed: int, down: int, right: int) -> None:
    cov, x = stationary(shape, seed), randn(2, *shape, seed=seed + 1)
    shifted = torch.roll(x, (down, right), (-2, -1))
    expected = torch.roll(cov.apply(x), (down, right), (-2, -1))
    torch.testing.assert_close(cov.apply(shifted), expected, rtol=0, atol=EXACT)


def test_a_diagonal_covariance_does_not_commute_with_shifts() -> None:
    cov, x = diagonal((1, 4, 4), 1), randn(1, 1, 4, 4)
    moved = cov.apply(torch.roll(x, 1, -1)) - torch.roll(cov.apply(x), 1, -1)
    assert float(moved.abs().max()) > 0.1


@pytest.mark.parametrize("kind", sorted(COVARIANCES))
def test_results_keep_the_dtype_of_the_maps(kind: str) -> None:
    cov, x = COVARIANCES[kind]((2, 3, 4), 3), randn(2, 2, 3, 4).float()
    for y in (cov.apply(x), cov.solve(x), cov.colour(x, torch.zeros(2, cov.rank))):
        assert y.dtype == torch.float32


def test_isotropic_is_a_multiple_of_the_identity() -> None:
    matrix = gaussian.dense(isotropic(2.5, (2, 2, 3)).apply, (2, 2, 3))
    np.testing.assert_array_equal(matrix, 2.5 * np.eye(12))


@repeatable
@given(st.integers(1, 9), st.integers(1, 9))
def test_wavenumbers_are_even_and_end_at_the_corner(y: int, x: int) -> None:
    k = wavenumbers(y, x)
    assert torch.equal(k, torch.roll(k.flip(0, 1), (1, 1), (0, 1)))
    assert float(k[0, 0]) == 0
    # Half a cycle per pixel on even axes, (n - 1) / 2n on odd ones; float32 square root.
    corner = np.hypot((y // 2) / y, (x // 2) / x)
    assert float(k.max()) == pytest.approx(corner, rel=1e-6)


def test_filtering_a_plane_wave_multiplies_it() -> None:
    wave = torch.cos(2 * torch.pi * torch.arange(8, dtype=torch.float64) * 2 / 8).expand(1, 1, 8, 8)
    power = Stationary(torch.from_numpy(1.0 + np.arange(64.0).reshape(1, 8, 8)))
    even = 0.5 * (power.power + torch.roll(power.power.flip(-2, -1), (1, 1), (-2, -1)))
    torch.testing.assert_close(filtered(wave, even), wave * even[0, 0, 2], rtol=0, atol=1e-12)
