"""Spectra of single modes and of channels together, and the factors that left-out maps confirm."""

import numpy as np
import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.diffusion.analytic import log_density
from ood_core.estimators import gaussian as plain
from ood_core.estimators.gaussian import confirmed_factors, fit_truncated, with_factors
from ood_core.estimators.sectors import leading_modes
from ood_core.estimators.spectra import Spectra, mode_powers, radial_mean, symmetrised, whitened
from ood_core.numerics.covariance import CrossStationary, LowRank, Stationary, wavenumbers
from ood_core.numerics.symmetry import orbit
from tests.oracles import gaussian
from tests.strategies import cross_stationary, randn, stationary

GROUPS: list[tuple[Symmetry, ...]] = [(), ("flip",), ("rotate90",), ("flip", "rotate90")]
EMPTY = torch.empty(0, 0)


@pytest.mark.parametrize("symmetries", GROUPS)
@pytest.mark.parametrize("shape", [(1, 6, 6), (2, 5, 5)])
def test_powers_are_those_of_all_images(
    shape: tuple[int, int, int], symmetries: tuple[Symmetry, ...]
) -> None:
    maps = randn(3, *shape, seed=1).float()
    found = symmetrised(mode_powers(maps, torch.zeros(shape)), symmetries)
    images = torch.cat(orbit(maps, symmetries)).double().numpy()
    modes = np.fft.fft2(images, norm="ortho")
    expected = np.einsum("nayx,nbyx->abyx", modes, modes.conj()) / len(modes)
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-6)  # transforms in float32


def test_without_share_the_law_is_the_mean_over_all_shifts() -> None:
    maps = randn(40, 2, 4, 4, seed=2).float()
    maps[:, 1] += 0.7 * maps[:, 0].roll(1, -1)  # cross-spectra with a phase
    law = Spectra.measure(maps, torch.zeros(2, 4, 4), ()).at(0.0)
    shifted = torch.cat([maps.roll((i, j), (-2, -1)) for i in range(4) for j in range(4)])
    rows = gaussian.flat(shifted)
    expected = rows.T @ rows / len(rows) * 40 / 39
    np.testing.assert_allclose(gaussian.dense(law.apply, (2, 4, 4)), expected, atol=1e-5)
    alone = np.einsum("abyx,ab->ayx", law.power.numpy(), np.eye(2)).real
    assert np.abs(gaussian.circulant(alone) - expected).max() > 0.3  # negative control


def test_with_full_share_the_law_is_isotropic() -> None:
    maps = randn(30, 1, 6, 6, seed=3).float()
    spectra = Spectra.measure(maps, torch.zeros(1, 6, 6), ())
    law = spectra.at(1.0)
    assert isinstance(law, Stationary)
    torch.testing.assert_close(law.power, plain.band_spectrum(maps) * 30 / 29)
    half = spectra.at(0.5)
    assert isinstance(half, Stationary)
    single = spectra.modes[0].real.float()
    torch.testing.assert_close(half.power, (law.power + single) / 2)


def test_channels_that_vary_together_are_likelier_together() -> None:
    truth = cross_stationary((3, 8, 8), 4)
    draws = truth.colour(randn(160, 3, 8, 8, seed=5), EMPTY).float()
    seen, left, zero = draws[:80], draws[80:], torch.zeros(3, 8, 8)
    together = Spectra.measure(seen, zero, ()).at(0.0)
    assert isinstance(together, CrossStationary)
    alone = Stationary(together.power.diagonal().permute(2, 0, 1).real.contiguous())
    scores = [float(log_density(left, zero, law).mean()) for law in (truth, together, alone)]
    # 9 numbers per mode from 80 draws cost about 9 / (2 * 80) nats a mode, 64 of them here.
    assert scores[0] - 8 < scores[1] < scores[0]
    assert scores[2] < scores[1] - 20  # negative control


def test_whitened_maps_are_white() -> None:
    truth = cross_stationary((2, 6, 6), 6)
    maps = truth.colour(randn(400, 2, 6, 6, seed=7), EMPTY).float()
    made = gaussian.flat(whitened(maps, torch.zeros(2, 6, 6), truth))
    # 72 x 72 entries of a sample covariance, each known to 1 / sqrt(400), twice that on diagonals.
    assert np.abs(made.T @ made / 400 - np.eye(72)).max() < 5 * np.sqrt(2 / 400)


RED = Stationary((0.3 / (0.1 + wavenumbers(12, 12)))[None])
PATTERN = RED.power_of(0.5).apply(randn(1, 1, 12, 12, seed=99))


def planted(n: int, seed: int) -> torch.Tensor:
    """A red field, and one pattern of its spectrum in random amounts: modes that go together."""
    amount = 0.8 * randn(n, 1, 1, 1, seed=seed)
    return (RED.colour(randn(n, 1, 12, 12, seed=seed + 1), EMPTY) + amount * PATTERN).float()


def test_a_planted_factor_is_found_and_white_noise_has_none() -> None:
    maps = planted(60, 8)
    spectra = Spectra.measure(maps, maps.mean(0), ())
    law = confirmed_factors(maps, spectra, 1.0, ())
    assert isinstance(law, LowRank)
    assert law.rank == 1
    found, truth = law.factors[0].flatten(), PATTERN.flatten().float()
    # The pattern has squared norm about d = 144 in the metric of the field, so that the variance
    # along it is l = 0.64 * 144 = 92 beside 1: cos^2 = (1 - g / l^2) / (1 + g / l) with g = d / n
    # is 0.97 (Paul 2007), in that metric.
    assert abs(float(found @ truth / found.norm() / truth.norm())) > 0.9
    other = RED.power_of(0.5).apply(randn(1, 1, 12, 12, seed=98)).flatten().float()
    assert abs(float(found @ other / found.norm() / other.norm())) < 0.6  # negative control
    left = planted(200, 20)
    with_it = float(log_density(left, maps.mean(0), law).mean())
    without = float(log_density(left, maps.mean(0), spectra.at(1.0)).mean())
    assert with_it > without + 1
    white = randn(60, 1, 12, 12, seed=9).float()
    noise = Spectra.measure(white, white.mean(0), ())
    assert isinstance(confirmed_factors(white, noise, 1.0, ()), Stationary)
    assert isinstance(confirmed_factors(maps, spectra, 1.0, ("translate",)), Stationary)


@pytest.mark.parametrize("channels", [1, 2])
def test_factors_have_their_variances_and_annuli_keep_their_power(channels: int) -> None:
    shape = (channels, 6, 6)
    law = cross_stationary(shape, 10) if channels > 1 else stationary(shape, 10)
    modes = leading_modes(randn(4, *shape, seed=11).float(), (), 2)
    variances = torch.tensor([6.0, 3.0])
    made = with_factors(law, modes.maps, variances)
    root, rows = law.power_of(0.5), gaussian.flat(modes.maps)
    whole = gaussian.dense(made.apply, shape)
    base = gaussian.dense(made.base.apply, shape)
    half = gaussian.dense(root.apply, shape)
    excess = half @ (rows.T @ np.diag([5.0, 2.0]) @ rows) @ half
    np.testing.assert_allclose(whole - base, excess, atol=1e-4)
    if channels == 1:
        power = gaussian.circulant_power(whole, shape)
        kept = radial_mean(torch.from_numpy(power).float() / law.power.float())
        # Smooth interpolation between annuli moves some power across their edges.
        torch.testing.assert_close(kept.mean(), torch.tensor(1.0), rtol=0, atol=0.1)
        assert float((made.base.power / law.power).min()) < 0.9  # negative control: it was given


def test_all_modes_are_the_sample_covariance_and_few_keep_its_trace() -> None:
    maps = randn(6, 1, 6, 6, seed=12).float()
    mean, law = fit_truncated(maps, ("flip",))(0.3)
    _, exact = plain.estimate(maps, "spectral_low_rank", 0.3, ("flip",))
    expected = gaussian.dense(exact.apply, (1, 6, 6))
    # With room for all modes the rest is the floor of the spectrum, 1e-4 of its mean.
    np.testing.assert_allclose(gaussian.dense(law.apply, (1, 6, 6)), expected, atol=2e-2)
    torch.testing.assert_close(mean, plain.symmetric_mean(maps, ("flip",)))
    assert law.trace() == pytest.approx(exact.trace(), rel=0.02)


def test_channels_that_are_copies_of_one_another_stay_invertible() -> None:
    one = randn(6, 1, 4, 4, seed=13).float()
    law = Spectra.measure(one.expand(-1, 2, -1, -1), torch.zeros(2, 4, 4), ()).at(0.0)
    values = np.linalg.eigvalsh(gaussian.dense(law.apply, (2, 4, 4)))
    # The difference of the channels has no power: it gets the floor, 1e-4 of the mean power.
    mean = float(law.power.diagonal().real.mean())
    np.testing.assert_allclose(values[:16], 1e-4 * mean, rtol=0.05)
    assert values[16] > 1e-2 * mean  # the other half is what was measured
