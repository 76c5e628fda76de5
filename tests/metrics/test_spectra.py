"""Power spectra against closed forms: white noise, plane waves, Parseval, a known ratio."""

import math

import pytest
import torch

from ood_core.metrics.spectra import (
    annuli,
    coherence,
    cross_spectrum,
    octave_ratios,
    power_spectrum,
    spectrum_distance,
)


def noise(n: int, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


def test_white_noise_has_its_variance_at_every_wavenumber() -> None:
    _, power, modes = power_spectrum(3.0 * noise(400))
    # A mode pair is exponential; conjugate modes are equal, so half of them are independent.
    error = 9.0 / torch.sqrt(400 * modes / 2)
    assert ((power.mean((0, 1)) - 9.0).abs() < 5 * error).all()


@pytest.mark.parametrize("cycles", [1, 4, 16])
def test_a_plane_wave_lands_in_its_annulus(cycles: int) -> None:
    x = torch.arange(32, dtype=torch.float32)
    wave = torch.cos(2 * math.pi * cycles * x / 32).expand(1, 1, 32, 32)
    k, power, modes = power_spectrum(wave)
    total = power[0, 0] * modes
    assert total.argmax() == cycles - 1
    assert k[cycles - 1] == pytest.approx(cycles / 32, abs=0.5 / 32)
    others = total.clone()
    others[cycles - 1] = 0
    assert others.max() < 1e-6 * total.max()


def test_parseval_holds_for_a_field_without_mean_and_corners() -> None:
    _, index, bins = annuli(24, 32)
    inside = (index > 0) & (index <= bins)
    field = torch.fft.fft2(torch.randn(3, 2, 24, 32, generator=torch.Generator().manual_seed(1)))
    band_limited = torch.fft.ifft2(field * inside).real
    _, power, modes = power_spectrum(band_limited)
    left = (power * modes).sum(-1) / (24 * 32)
    torch.testing.assert_close(left, band_limited.double().square().mean((-2, -1)))


def test_every_mode_is_counted_once() -> None:
    _, index, bins = annuli(32, 32)
    _, _, modes = power_spectrum(noise(1))
    assert modes.sum() == ((index > 0) & (index <= bins)).sum()


def test_a_doubled_amplitude_is_an_error_of_ln_four() -> None:
    rows, doubled = (power_spectrum(maps)[1] for maps in (noise(4), 2 * noise(4)))
    assert spectrum_distance(doubled, rows) == pytest.approx(math.log(4))
    assert spectrum_distance(rows, rows) == 0


def test_constant_maps_have_a_finite_error() -> None:
    rows, flat = (power_spectrum(m)[1] for m in (noise(2, 16), torch.zeros(2, 1, 16, 16)))
    assert math.isfinite(spectrum_distance(flat, rows))


def test_the_diagonal_of_the_cross_spectrum_is_the_power_spectrum() -> None:
    maps = torch.cat([noise(3), noise(3, seed=1)], dim=1)
    _, cross, modes = cross_spectrum(maps)
    _, power, expected_modes = power_spectrum(maps)
    torch.testing.assert_close(torch.diagonal(cross, dim1=1, dim2=2).transpose(1, 2), power)
    torch.testing.assert_close(cross, cross.transpose(1, 2))
    assert modes.equal(expected_modes)


def test_coherence_is_the_correlation_of_channels() -> None:
    share = 0.6
    one, other = noise(200), noise(200, seed=1)
    mixed = share * one + math.sqrt(1 - share**2) * other
    _, cross, modes = cross_spectrum(torch.cat([one, -3 * one, mixed, other], dim=1))
    found = coherence(cross)
    torch.testing.assert_close(found[0, 1], -torch.ones(16).double())
    # A correlation of m pairs of real numbers has the error (1 - r^2) / sqrt(m); half of the modes
    # are independent, and each is two numbers.
    error = 1 / torch.sqrt(200 * modes)
    assert ((found[0, 2] - share).abs() < 5 * (1 - share**2) * error).all()
    assert (found[0, 3].abs() < 5 * error).all()


def test_a_shifted_copy_is_coherent_by_the_cosine_of_its_phase() -> None:
    # A point and a point `s` columns on: F_a F_b* = exp(2 pi i kx s), in the mean over an annulus.
    points = torch.zeros(1, 2, 32, 32)
    points[0, 0, 0, 0] = points[0, 1, 0, 3] = 1
    _, index, bins = annuli(32, 32)
    cosine = torch.cos(2 * math.pi * torch.fft.fftfreq(32, dtype=torch.float64) * 3).expand(32, 32)
    expected = torch.stack([cosine[index == j].mean() for j in range(1, bins + 1)])
    torch.testing.assert_close(coherence(cross_spectrum(points)[1])[0, 1], expected)


def test_a_channel_without_power_is_coherent_with_nothing() -> None:
    maps = torch.cat([noise(2), torch.zeros(2, 1, 32, 32)], dim=1)
    assert (coherence(cross_spectrum(maps)[1])[:, 1] == 0).all()


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = torch.cat([noise(5), noise(5, seed=1)], dim=1)
    whole = cross_spectrum(maps)[1], power_spectrum(maps)[1]
    monkeypatch.setattr("ood_core.metrics.spectra.BLOCK_PIXELS", 1)
    torch.testing.assert_close((cross_spectrum(maps)[1], power_spectrum(maps)[1]), whole)


def test_octaves_hold_every_annulus_once() -> None:
    flat, tilted = torch.ones(2, 1, 16), torch.ones(3, 1, 16)
    tilted[..., :1], tilted[..., 1:3], tilted[..., 3:7], tilted[..., 7:] = 2, 3, 4, 5
    expected = torch.tensor([[2.0, 3.0, 4.0, 5.0]], dtype=torch.float64).log()
    torch.testing.assert_close(octave_ratios(tilted, flat), expected)
    mixed = flat.clone()
    mixed[..., 1] = 4  # one of the two annuli of an octave, of 2 and 3 parts of its modes
    assert float(octave_ratios(mixed, flat)[0, 1]) == pytest.approx(math.log((2 * 4 + 3) / 5))
