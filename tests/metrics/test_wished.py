"""Numbers that may be wished for, against closed forms."""

import math
from typing import get_args

import pytest
import torch

from ood_core.config.steer import OVER_A_LEVEL, WishedStatistic, WishSpec
from ood_core.errors import ConfigError
from ood_core.metrics.wished import WISHED, means_something

SIDE = 32


def power_law(amplitude: float, slope: float) -> torch.Tensor:
    """A map whose every mode has exactly the power `amplitude (k / middle)^slope`."""
    ky = torch.fft.fftfreq(SIDE, dtype=torch.float64)[:, None]
    k = torch.hypot(ky, torch.fft.fftfreq(SIDE, dtype=torch.float64)[None])
    index = (k * SIDE + 0.5).floor().long()
    inside = (index >= 1) & (index <= SIDE // 2)
    rings = [k[index == j] for j in range(1, SIDE // 2 + 1)]
    centres = torch.stack([ring.mean() for ring in rings])
    modes = torch.tensor([len(ring) for ring in rings], dtype=torch.float64)
    middle = ((modes * centres.log()).sum() / modes.sum()).exp()
    steps = torch.where(inside, centres[(index - 1).clamp(0, SIDE // 2 - 1)], torch.ones(()))
    power = torch.where(inside, amplitude * (steps / middle) ** slope, torch.zeros(()))
    phase = torch.fft.fft2(torch.randn(SIDE, SIDE, generator=torch.Generator().manual_seed(1)))
    spectrum = power.sqrt() * phase / phase.abs() * SIDE
    return torch.fft.ifft2(spectrum).real[None, None]


def test_every_name_of_the_configuration_has_an_entry_and_none_beside():
    assert set(get_args(WishedStatistic)) == WISHED.keys()


@pytest.mark.parametrize(("amplitude", "slope"), [(1.0, 0.0), (100.0, -2.5), (1e-6, 1.5)])
def test_a_power_law_has_its_amplitude_and_its_slope(amplitude, slope):
    """Exact but for rounding: each annulus has one power."""
    maps = power_law(amplitude, slope)
    assert WISHED["spectrum_slope"](maps).item() == pytest.approx(slope, abs=1e-6)
    found = WISHED["spectrum_amplitude"](maps).item()
    assert found == pytest.approx(math.log10(amplitude), abs=1e-6)


def test_sums_and_shares_and_peaks_are_counted():
    maps = torch.zeros(2, 2, 8, 8)
    maps[0, :, 2, 3] = 5.0
    maps[0, 0, 6, 5] = 2.0
    assert WISHED["flux"](maps).tolist() == [12.0, 0.0]
    assert WISHED["mean"](maps)[0].item() == pytest.approx(12 / 128)
    assert WISHED["volume_fraction"](maps, 1.0).tolist() == [3 / 128, 0.0]
    assert WISHED["peaks"](maps, 1.0).tolist() == [1.5, 0.0]  # two and one of the channels
    assert WISHED["peaks"](maps, 3.0).tolist() == [1.0, 0.0]


def test_a_gaussian_object_has_the_radius_and_the_concentration_of_its_law():
    """r_50 = sigma (2 ln 2)^1/2 and C = 2.5 log10(ln 5 / ln 1.25), to `0.4 / sigma^2`."""
    y = torch.arange(64, dtype=torch.float64) - 31.5
    maps = torch.exp(-(y[:, None] ** 2 + y**2) / (2 * 6.0**2))[None, None] + 3.0
    radius, ratio = (WISHED[n](maps).item() for n in ("half_light_radius", "concentration"))
    assert radius == pytest.approx(6 * math.sqrt(2 * math.log(2)), rel=0.02)
    assert ratio == pytest.approx(2.5 * math.log10(math.log(5) / math.log(1.25)), abs=0.02)
    assert means_something("concentration", maps + torch.zeros(8, 1, 1, 1))


def test_maps_without_an_object_have_no_size_and_constant_ones_finite_numbers():
    noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert not means_something("half_light_radius", noise)
    assert means_something("peaks", noise)
    flat = torch.full((1, 1, 8, 8), 2.0)
    for name, wished in WISHED.items():
        assert math.isfinite(wished(flat, 1.0).item()), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"statistic": "peaks"}, "above None"),
        ({"above": 1.0}, "mean and above 1.0"),
        ({"width": 0.0}, "width above 0"),
        ({"value": math.nan}, "finite"),
    ],
)
def test_wishes_that_cannot_be_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        WishSpec(**{"statistic": "mean", "value": 1.0, **change})
    assert set(OVER_A_LEVEL) < WISHED.keys()
