"""Windows of a field: their estimates add up to what one denoiser of the whole would say."""

import pytest
import torch

from ood_core.denoising.windowed import WindowedDenoiser, corners, longer_than, offset
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Diagonal, isotropic

SCHEDULE = NoiseSchedule.linear()
WINDOW, FIELD = (8, 6), (24, 15)


def white_denoiser(window):
    return GaussianDenoiser(SCHEDULE, torch.full((2, *window), 0.3), isotropic(0.5, (2, *window)))


def test_a_denoiser_that_looks_at_single_pixels_gives_the_same_in_windows():
    """The weights of all windows add up to 1 at every pixel, borders of the torus included."""
    places = corners(WINDOW, FIELD)
    assert len(places) == len(set(places)) == (24 // 4) * (15 // 3)
    x_t = torch.randn(1, 2, *FIELD, generator=torch.Generator().manual_seed(0))
    counts = [7, 23]
    windowed = WindowedDenoiser([white_denoiser(WINDOW)] * 2, counts, WINDOW, FIELD)
    whole = white_denoiser(FIELD)
    for t in (50, 700):
        assert torch.allclose(windowed(x_t, t), whole(x_t, t), atol=1e-6)


def test_each_window_is_denoised_by_its_own_denoiser():
    """Every pixel lies in four windows. The control for the test before: means that differ."""
    places = corners((4, 4), (8, 8))
    means = torch.arange(16.0)
    inner = [
        GaussianDenoiser(SCHEDULE, mean.expand(1, 4, 4), Diagonal(torch.full((1, 4, 4), 1e-8)))
        for mean in means
    ]
    windowed = WindowedDenoiser(inner, [1] * 16, (4, 4), (8, 8))
    found = windowed(torch.zeros(1, 1, 8, 8), 10)[0, 0]
    share = torch.sin((torch.arange(4) + 0.5) * torch.pi / 4) ** 2
    by_hand = torch.zeros(8, 8)
    for number, (y, x) in enumerate(places):
        for i in range(4):
            for j in range(4):
                by_hand[(y + i) % 8, (x + j) % 8] += share[i] * share[j] * means[number]
    assert torch.allclose(found, by_hand.roll(offset(10, (4, 4)), (0, 1)), atol=1e-4)


def test_windows_lie_everywhere_in_turn():
    """The offsets of twelve neighbouring time indices lie in every quarter of half a window."""
    seen = {(2 * y // 16, 2 * x // 16) for y, x in (offset(t, (32, 32)) for t in range(12))}
    assert seen == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize(
    ("window", "field"), [((5, 4), (10, 8)), ((4, 4), (9, 8)), ((8, 8), (4, 8))]
)
def test_windows_that_do_not_tile_a_field_are_refused(window, field):
    with pytest.raises(ValueError, match="expected even ones that tile it"):
        corners(window, field)


def test_long_waves_are_those_that_were_given_and_short_ones_are_not():
    given = torch.randn(1, 2, *FIELD, generator=torch.Generator().manual_seed(1))
    x_t = torch.randn(1, 2, *FIELD, generator=torch.Generator().manual_seed(0))
    counts, inner = [30], [white_denoiser(WINDOW)]
    free = torch.fft.fft2(WindowedDenoiser(inner, counts, WINDOW, FIELD)(x_t, 300))
    held = torch.fft.fft2(WindowedDenoiser(inner, counts, WINDOW, FIELD, given)(x_t, 300))
    long = longer_than(WINDOW, FIELD)[0] > 0
    assert long[0, 0] and long[1, 2] and not long[3, 0] and not long[2, 2]
    assert torch.allclose(held[..., long], torch.fft.fft2(given)[..., long], atol=1e-3)
    assert torch.allclose(held[..., ~long], free[..., ~long], atol=1e-3)
