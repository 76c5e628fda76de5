"""The law of windows of larger fields, against the law that they were drawn from."""

import math

import pytest
import torch

from ood_core.estimators import windowed
from ood_core.estimators.prior import fit_gaussian
from ood_core.estimators.windowed import fit_conditional, toeplitz, window_covariance
from ood_core.numerics.covariance import Dense, wavenumbers
from tests.oracles import gaussian

SIDE, GRID, FIT = 12, 48, 64


def power_of(grid: int, slope: float, low: float) -> torch.Tensor:
    return wavenumbers(grid, grid).double().clamp_min(low) ** (-slope)


def window_law(power: torch.Tensor) -> torch.Tensor:
    """Covariance of all pairs of pixels of a window, by pixel."""
    lags = torch.fft.ifft2(power).real
    y, x = torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE
    return lags[(y[:, None] - y) % len(lags), (x[:, None] - x) % len(lags)]


@pytest.fixture(scope="module")
def windows():
    power = power_of(GRID, 2.5, 1 / GRID)
    white = torch.randn(
        FIT, 1, GRID, GRID, generator=torch.Generator().manual_seed(2), dtype=torch.float64
    )
    fields = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    return fields[..., :SIDE, :SIDE].float(), window_law(power)


def left_open(matrix: torch.Tensor) -> float:
    """Mean variance of the middle 4 x 4 pixels given all others."""
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    inside[4:8, 4:8] = True
    hidden = inside.flatten().nonzero()[:, 0]
    precision = torch.linalg.inv(matrix)[hidden][:, hidden]
    return float(torch.linalg.inv(precision).diagonal().mean())


@pytest.mark.parametrize("slope", [0.0, 1.5, 3.0])
def test_the_spectrum_behind_its_mean_periodogram_is_found(slope):
    """Where the periodogram is its own mean, the likeliest law is the one that has it."""
    power = power_of(2 * SIDE, slope, 1 / (2 * SIDE))
    matrix = window_law(power)
    columns = matrix.reshape(-1, SIDE, SIDE)
    half = torch.fft.fft2(columns, norm="ortho").flatten(1)
    periodogram = torch.fft.fft2(half.T.reshape(-1, SIDE, SIDE), norm="ortho").flatten(1)
    # F C F^H has the mean periodogram on its diagonal; C is real, so F C F^T has it at (k, -k).
    y, x = torch.arange(SIDE**2) // SIDE, torch.arange(SIDE**2) % SIDE
    mirrored = (-y % SIDE) * SIDE + (-x % SIDE)
    mean = periodogram[torch.arange(SIDE**2), mirrored].real.reshape(SIDE, SIDE)
    found = toeplitz(window_covariance(mean), (SIDE, SIDE))
    assert (found - matrix).abs().max() < 1e-2 * matrix[0, 0]


def test_windows_leave_open_what_their_law_does_and_a_periodic_law_more(windows):
    """64 maps tell the power of every octave to some 3 %, and so the variance to a tenth."""
    maps, truth = windows
    law = fit_conditional(maps, ("flip", "rotate90"))
    assert isinstance(law.covariance, Dense)
    assert left_open(law.covariance.matrix) == pytest.approx(left_open(truth), rel=0.1)
    periodic = fit_gaussian(maps, "spectral_low_rank", ("flip", "rotate90"))
    dense = torch.from_numpy(gaussian.dense(periodic.covariance.apply, (1, SIDE, SIDE)))
    assert left_open(dense) > 1.15 * left_open(truth)
    assert law.held_out_log_density > periodic.held_out_log_density


def test_periodic_maps_keep_a_periodic_law(windows):
    maps, _ = windows
    assert not isinstance(fit_conditional(maps, ("translate",)).covariance, Dense)


def test_maps_of_too_many_pixels_keep_a_periodic_law(windows, monkeypatch):
    monkeypatch.setattr(windowed, "MOST_PIXELS", SIDE**2 - 1)
    assert not isinstance(fit_conditional(windows[0], ()).covariance, Dense)


def test_channels_have_spectra_of_their_own_and_share_what_the_sample_says(windows):
    one = windows[0]
    both = torch.cat([one, 3 * one], dim=1)
    law = windowed.fit_windowed(both, ())
    assert law.rho < 1  # channels are multiples, which a spectrum each does not say
    half = SIDE**2
    matrix = law.covariance.matrix
    ratio = matrix[half:, half:].trace() / matrix[:half, :half].trace()
    assert float(ratio) == pytest.approx(9.0, rel=1e-3) and math.isfinite(law.held_out_log_density)
