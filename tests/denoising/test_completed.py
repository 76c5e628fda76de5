"""Estimates with the power of draws: the closed form, the law of samples, and the way taken."""

import pytest
import torch

from ood_core.denoising.completed import (
    LIMITS,
    Comparison,
    CompletedDenoiser,
    Completion,
    Completions,
    LeftOpen,
    left_by_gaussian,
)
from ood_core.denoising.local_detail import LocalDetail
from ood_core.denoising.statistics import Statistics
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.metrics.detail import local_mean
from ood_core.numerics.covariance import Stationary, filtered, wavenumbers
from ood_core.numerics.random import SeedRange, Stream, normal

SIDE = 16
SHAPE = (1, SIDE, SIDE)
SCHEDULE = NoiseSchedule.linear()
EVEN = LocalDetail(torch.tensor([-1.0, 1.0]), torch.ones(2))
"""As rough everywhere."""


def power(slope=-2.0):
    k = wavenumbers(SIDE, SIDE)
    k[0, 0] = 1 / SIDE
    return (k**slope / (k**slope).mean())[None]


def gaussian(count, seed):
    return filtered(normal(SeedRange(seed, 0, count), SHAPE, 0, Stream.LATENT), power().sqrt())


def sparse(count, seed):
    """Few bright discs on an empty sky."""
    points = normal(SeedRange(seed, 0, count), SHAPE, 0, Stream.LATENT).gt(2.2).float()
    k = wavenumbers(SIDE, SIDE)[None]
    return 4 * filtered(points, torch.exp(-20 * k.square()))


@pytest.mark.parametrize("limit", [1.0, 1.3, 2.0, 100.0])
@pytest.mark.parametrize("remains", [0.0, 0.35, 0.8])
def test_a_step_leaves_the_power_that_it_would_with_draws(limit, remains):
    """Per mode of a Gaussian field, whose power the step has to keep: `P + q^2`."""
    spectrum, r = power().double(), 1.3
    kept, left = spectrum**2 / (spectrum + r**2), left_by_gaussian(spectrum, r)
    made = Completion.of(left, kept, remains, limit)
    rest = 1 - remains
    state = remains**2 * (spectrum + r**2) + 2 * remains * rest * made.gain * spectrum
    state += rest**2 * (made.gain**2 * kept + made.noise**2) + rest * remains * r**2
    assert torch.allclose(state, spectrum + remains * r**2, rtol=1e-9)
    assert float(made.gain.min()) >= 1 and float(made.gain.max()) <= limit
    if limit == 1:
        assert torch.allclose(made.noise**2, left, rtol=1e-12)
    if limit == 100:
        assert float(made.noise.max()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("limit", [*LIMITS, None])
def test_samples_of_a_gaussian_have_its_power_in_a_dozen_steps(limit):
    """Without completion 38 % of it is lost (docs/method.md, Lost power)."""
    mean, spectrum = torch.full(SHAPE, 0.2), power()
    exact = GaussianDenoiser(SCHEDULE, mean, Stationary(spectrum))
    grid = SCHEDULE.log_snr_grid(13, 999 - 30)
    noises = {t: SCHEDULE.noise_to_signal(t) for t in grid.tolist()}
    spectra = {
        t: (left_by_gaussian(spectrum, r), spectrum**2 / (spectrum + r**2))
        for t, r in noises.items()
    }
    seeds, top = SeedRange(5, 0, 400), int(grid[-1])
    denoiser = exact
    if limit is not None:
        completions = Completions.of(spectra, SCHEDULE, limit, mean, EVEN)
        denoiser = CompletedDenoiser(exact, completions, seeds)
    r = noises[top]
    alpha = float(SCHEDULE.alpha[top])
    start = (spectrum + r**2).sqrt()
    latents = filtered(normal(seeds, SHAPE, 0, Stream.LATENT), start)
    latents = alpha * (mean + latents) / SCHEDULE.scale(top)
    samples = decode(denoiser, "ancestral", latents, grid, seeds)
    found = (torch.fft.fft2(samples - mean, norm="ortho").abs() ** 2).mean(0)
    ratio = float((found / spectrum).mean())
    # A mean over 256 modes (half of them independent) of 400 maps: 1 / sqrt(128 * 400) = 0.004.
    if limit is None:
        assert ratio < 0.7
    else:
        assert ratio == pytest.approx(1, abs=4 * 0.0045)


def compared(estimates, clean, noise=0.9):
    mean = torch.zeros(SHAPE)
    reference = Comparison.of(clean, mean, Statistics(SIDE), 3)
    return reference(estimates, clean, 400, noise), reference


def test_what_a_wiener_filter_leaves_and_keeps_is_measured():
    clean, noise = gaussian(600, 1), 0.9
    spectrum = power()
    noised = clean + noise * normal(SeedRange(2, 0, 600), SHAPE, 0, Stream.SOLVER)
    estimates = filtered(noised, spectrum / (spectrum + noise**2))
    found, reference = compared(estimates, clean)
    left, kept = found.at(reference.power, noise)
    inside = wavenumbers(SIDE, SIDE)[None] > 2 / SIDE
    # Powers of annuli of some ten modes of 600 maps: 1 / sqrt(5 * 600) = 0.02, three times.
    wanted = left_by_gaussian(spectrum, noise)
    assert torch.allclose(left[inside], wanted[inside], rtol=0.08)
    wanted = spectrum**2 / (spectrum + noise**2)
    assert torch.allclose(kept[inside], wanted[inside], rtol=0.12)


def test_faded_sparse_maps_are_completed_by_a_gain():
    clean = sparse(64, 4)
    found, _ = compared(0.8 * clean, clean)
    assert found.limit() == LIMITS[1]
    assert float(found.gaps[1]) < 0.2 * float(found.gaps[0])


def test_sparse_maps_that_lack_gaussian_noise_are_completed_by_noise():
    estimates = sparse(64, 4)
    clean = estimates + 0.3 * gaussian(64, 5)
    found, _ = compared(estimates, clean)
    assert found.limit() == LIMITS[0]


def test_the_limit_is_one_for_all_timesteps():
    parts = torch.ones(3, 24)
    gaps = torch.tensor([[0.0, 0.0], [0.2, 0.3], [0.5, 0.3]])
    assert LeftOpen(parts, parts, gaps).limit() == LIMITS[1]


def test_a_completed_estimate_depends_on_its_own_sample_alone():
    spectrum, mean = power(), torch.zeros(SHAPE)
    exact = GaussianDenoiser(SCHEDULE, mean, Stationary(spectrum))
    spectra = {300: (left_by_gaussian(spectrum, SCHEDULE.noise_to_signal(300)), spectrum)}
    completions = Completions.of(spectra, SCHEDULE, LIMITS[1], mean, EVEN)
    noised = gaussian(6, 7)
    whole = CompletedDenoiser(exact, completions, SeedRange(1, 0, 6))(noised, 300)
    part = CompletedDenoiser(exact, completions, SeedRange(1, 2, 5))(noised[2:5], 300)
    # The same sums in other batches of FFTs: rounding of values below 10.
    torch.testing.assert_close(part, whole[2:5], rtol=0, atol=1e-5)


def test_noise_is_as_rough_as_detail_is_at_its_brightness():
    """Half as rough where bright: there the noise is halved, and where faint unchanged."""
    estimate, white = gaussian(40, 1), normal(SeedRange(2, 0, 40), SHAPE, 0, Stream.COMPLETION)
    mean, smooth = torch.zeros(SHAPE), local_mean(estimate)
    least, middle, most = smooth.quantile(torch.tensor([0.0, 0.5, 1.0])).tolist()
    edges = torch.tensor([least - 1, middle - 1e-4, middle, middle + 1e-4, most + 1])
    halved = LocalDetail(edges, torch.tensor([1.0, 1.0, 0.75, 0.5, 0.5]))
    completion = Completion(torch.ones_like(power()), power().sqrt())
    even, scaled = (completion(estimate, mean, white, how) - estimate for how in (EVEN, halved))
    bright, faint = smooth > middle + 1e-4, smooth < middle - 1e-4
    assert bright.sum() > 4000 < faint.sum()
    torch.testing.assert_close(scaled[faint], even[faint], rtol=0, atol=1e-5)
    torch.testing.assert_close(scaled[bright], 0.5 * even[bright], rtol=0, atol=1e-5)


def test_the_spread_of_detail_is_measured_by_brightness():
    """White noise that is three times as rough on the bright half of a wave."""
    wave = 3 * torch.cos(torch.pi * (torch.arange(SIDE) + 0.5) / SIDE).expand(40, 1, SIDE, SIDE)
    noise = torch.where(wave > 0, 0.3, 0.1) * normal(SeedRange(8, 0, 40), SHAPE)
    found = LocalDetail.measure(wave + noise)
    faint, bright = found.spread[0], found.spread[-1]
    # Power 0.09 and 0.01 are 0.05 in the mean; the wave's own bend adds a little to both.
    assert float(bright) == pytest.approx((0.09 / 0.05) ** 0.5, rel=0.1)
    assert float(bright / faint) == pytest.approx(3, rel=0.25)


def test_power_is_spread_over_modes_where_the_maps_are():
    """The meta device, on which no number lies, stands for any other than the CPU."""
    there = torch.device("meta")
    parts = torch.ones(24, device=there)
    found = LeftOpen(parts, parts, torch.zeros(2)).at(power().to(there), 0.9)
    assert [one.device for one in found] == [there, there]
