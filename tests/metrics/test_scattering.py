"""Scattering moments: invariances and plane waves."""

import math

import pytest
import torch

from ood_core.metrics.scattering import MIN_MODULUS, Scattering, morlet_bank
from tests.strategies import randn

ORIENTATIONS = 4


def noise(size: int = 32, n: int = 2) -> torch.Tensor:
    return randn(n, 1, size, size, seed=1).float()


def wave(size: int, scale: int, orientation: int) -> torch.Tensor:
    """Plane wave at the nearest mode to the centre of a wavelet's band."""
    k, angle = 0.375 / 2**scale, orientation * math.pi / ORIENTATIONS
    ky, kx = round(k * math.sin(angle) * size), round(k * math.cos(angle) * size)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return torch.cos(2 * math.pi * (ky * y + kx * x) / size)[None, None]


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("shift", [(2, 0), (0, -4), (6, 10)])
def test_shifts_by_the_thinned_grid_change_nothing(size: int, shift: tuple[int, int]) -> None:
    maps, bank = noise(size), Scattering(size)
    moved = bank.log_moments(torch.roll(maps, shift, (-2, -1)))
    # Float32 transforms; logarithms of numbers above 1e-3.
    torch.testing.assert_close(moved, bank.log_moments(maps), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shift", [(1, 0), (3, 5)])
def test_odd_shifts_change_little(shift: tuple[int, int]) -> None:
    maps, bank = noise(), Scattering(32)
    moved = bank.log_moments(torch.roll(maps, shift, (-2, -1)))
    # Moduli have twice the band of their wavelet, so that thinning aliases a few per cent of the
    # spread of the coarsest scale, over 16 x 16 points.
    torch.testing.assert_close(moved, bank.log_moments(maps), rtol=0, atol=0.03)
    # Negative control: another map of the same law is further off.
    assert float((bank.log_moments(maps[:1]) - bank.log_moments(maps[1:])).abs().max()) > 0.1


@pytest.mark.parametrize("size", [16, 32])
@pytest.mark.parametrize("scale", [0, 1, 2])
@pytest.mark.parametrize("orientation", range(ORIENTATIONS))
def test_a_plane_wave_lands_in_its_wavelet(size: int, scale: int, orientation: int) -> None:
    moments = Scattering(size).log_moments(wave(size, scale, orientation))[0]
    first = moments[: 3 * ORIENTATIONS].reshape(3, ORIENTATIONS)
    assert divmod(int(first.argmax()), ORIENTATIONS) == (scale, orientation)


def test_a_constant_map_has_no_response() -> None:
    moments = Scattering(16).log_moments(torch.full((1, 2, 16, 16), 0.7))
    # The modulus is regularised by 1e-6, a thousandth of the floor; float32 transform below that.
    torch.testing.assert_close(
        moments, torch.full_like(moments, math.log(MIN_MODULUS)), rtol=0, atol=2e-3
    )


def test_a_constant_added_changes_nothing() -> None:
    maps, bank = noise(), Scattering(32)
    torch.testing.assert_close(
        bank.log_moments(maps + 0.5), bank.log_moments(maps), rtol=0, atol=1e-3
    )


@pytest.mark.parametrize("factor", [0.1, 2.0, 10.0])
def test_amplitude_adds_its_logarithm_to_every_moment(factor: float) -> None:
    maps, bank = 100 * noise(), Scattering(32)
    change = bank.log_moments(factor * maps) - bank.log_moments(maps)
    # The floor of 1e-3 against responses of 100 * 0.03 and, second order, a few times less.
    torch.testing.assert_close(change, torch.full_like(change, math.log(factor)), rtol=0, atol=0.02)
    assert float((bank.log_moments(-maps) - bank.log_moments(maps)).abs().max()) < 1e-5


def test_number_of_moments_and_order_of_channels() -> None:
    maps = randn(3, 2, 16, 16, seed=2).float()
    bank = Scattering(16)
    moments = bank.log_moments(maps)
    per_channel = 2 * 3 * 4 + 4 * 4 * 3
    assert moments.shape == (3, 2 * per_channel)
    for channel in (0, 1):
        alone = bank.log_moments(maps[:, channel : channel + 1])
        part = moments[:, channel * per_channel : (channel + 1) * per_channel]
        torch.testing.assert_close(part, alone, rtol=0, atol=1e-4)  # float32


def test_a_quarter_turn_permutes_orientations() -> None:
    maps, bank = noise(), Scattering(32)
    mirrored = maps.transpose(-2, -1)  # y and x change places: angle a becomes 90 degrees - a
    straight, turned = (
        bank.log_moments(m)[:, :12].reshape(-1, 3, ORIENTATIONS) for m in (maps, mirrored)
    )
    torch.testing.assert_close(turned, straight[..., [2, 1, 0, 3]], rtol=0, atol=1e-4)  # float32
    assert float((turned - straight).abs().max()) > 0.01  # negative control


@pytest.mark.parametrize("scale", [0, 1, 2])
def test_wavelets_have_no_mean_and_pass_their_centre(scale: int) -> None:
    bank = morlet_bank(32, scale, ORIENTATIONS)
    assert float(bank[:, 0, 0].abs().max()) < 1e-7
    centre = round(0.375 / 2**scale * 32)
    assert float(bank[0, 0, centre]) == pytest.approx(float(bank[0].max()), rel=0.05)


def test_maps_too_small_for_the_scales_are_refused() -> None:
    with pytest.raises(ValueError, match="size 8 x 8 for 3 scales"):
        Scattering(8)


@pytest.mark.parametrize("thinned", [False, True])
def test_moments_of_oblong_maps_are_those_of_their_periods(thinned: bool) -> None:
    """A map beside itself has the moments of the map, and its gradient is halved."""
    maps = noise(32).requires_grad_(True)
    both = torch.cat([maps, maps], dim=-1).detach().requires_grad_(True)
    alone = Scattering(32, thinned=thinned).log_moments(maps)
    twice = Scattering(32, thinned=thinned, width=64).log_moments(both)
    torch.testing.assert_close(twice, alone, rtol=0, atol=2e-4)
    weights = torch.randn(alone.shape, generator=torch.Generator().manual_seed(2))
    (one,), (two,) = (
        torch.autograd.grad((moments * weights).sum(), given)
        for moments, given in ((alone, maps), (twice, both))
    )
    torch.testing.assert_close(2 * two[..., 32:], one, rtol=0, atol=2e-3 * float(one.abs().max()))


@pytest.mark.parametrize(("size", "thinned"), [(22, False), (26, False), (28, True)])
def test_thinned_grids_of_odd_sides_keep_the_scale_of_moduli(size: int, thinned: bool) -> None:
    """11, 13 and 7 pixels: the coarsest first-order means are those of the full grid."""
    maps = noise(size)
    every = torch.fft.ifft2(
        torch.fft.fft2(maps[:, 0])[:, None] * morlet_bank(size, 2, ORIENTATIONS)
    )
    full = every.abs().mean((-2, -1))
    got = Scattering(size, thinned=thinned).log_moments(maps)[
        :, 2 * ORIENTATIONS : 3 * ORIENTATIONS
    ]
    assert float((got.exp() / full).mean()) == pytest.approx(1, abs=0.06)


def test_thinned_grids_lose_only_what_lies_beyond_them() -> None:
    """Maps without waves finer than the coarsest grid have the same first-order means on all."""
    spectrum = torch.fft.fft2(noise())
    keep = (torch.fft.fftfreq(32).abs() < 1 / 8).float()  # a grid thinned by 4 ends there
    smooth = torch.fft.ifft2(spectrum * keep[:, None] * keep[None, :]).real
    full, thinned = Scattering(32), Scattering(32, thinned=True)
    first = 3 * ORIENTATIONS
    # Moduli alias on the coarse grid: their means over it differ by a few per cent of the spread.
    ours, theirs = (bank.log_moments(smooth)[:, :first] for bank in (thinned, full))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    # Negative control: of a map that has finer waves, the wavelets' outer parts are gone.
    ours, theirs = (bank.log_moments(noise())[:, :first] for bank in (thinned, full))
    assert torch.equal(ours[:, :ORIENTATIONS], theirs[:, :ORIENTATIONS])  # the finest scale
    lost = (theirs - ours)[:, ORIENTATIONS:]
    assert float(lost.min()) > 0
    assert float(lost.mean()) > 0.05
