"""Plateaus of targets, and pixels between a plateau and its edge."""

import pytest
import torch

from ood_core.arrays import Maps
from ood_core.denoising.plateaus import MARGIN, SIDE, FrontDenoiser, Fronts, Plateaus
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Stationary, wavenumbers
from tests.strategies import randn

SIZE = 16
POWER = (0.01 / (wavenumbers(SIZE, SIZE) + 1 / SIZE) ** 2)[None]
LINEAR = NoiseSchedule.linear()


def bubbles(n: int = 12) -> Maps:
    """Maps of two phases: a quarter of the pixels is -1, the others are between 0.3 and 1."""
    field = Stationary(POWER).colour(randn(n, 1, SIZE, SIZE, seed=7).float(), torch.empty(n, 0))
    low = field < field.flatten(1).quantile(0.25, dim=1)[:, None, None, None]
    return torch.where(low, -1.0, 0.65 + 0.35 * torch.tanh(field))


def fronts_of(maps: Maps) -> Fronts:
    plateaus = Plateaus.of(maps)
    assert plateaus is not None
    return Fronts.of(maps, (), plateaus, root=3)


class Fixed:
    """A denoiser whose estimate is given."""

    schedule = LINEAR

    def __init__(self, estimate: Maps) -> None:
        self.estimate = estimate

    def __call__(self, x_t: Maps, t: int) -> Maps:
        return self.estimate


def test_pixels_beyond_an_edge_are_set_and_their_gradient_passes() -> None:
    plateaus = Plateaus.of(bubbles())
    assert plateaus is not None and plateaus.there.tolist() == [[True, False]]
    edge = float(plateaus.edge[0, 0])
    assert -1 < edge < 1
    maps = torch.tensor([-7.0, -1.0, edge - 0.01, edge + 0.01, 1.5]).reshape(1, 1, 1, 5)
    maps.requires_grad_(True)
    settled = plateaus(maps)
    # a + (b - a) is b but for one rounding of each, at most 7 in size
    assert torch.allclose(settled, torch.tensor([-1, -1, -1, edge + 0.01, 1.5]), atol=14 * 2**-24)
    (gradient,) = torch.autograd.grad(settled.square().sum() / 2, maps)
    assert torch.equal(gradient, settled.detach())
    assert Plateaus.of(randn(12, 1, SIZE, SIZE, seed=1).float()) is None


def test_plateaus_at_both_ends_mirror_each_other() -> None:
    low, high = (Plateaus.of(maps) for maps in (bubbles(), -bubbles()))
    assert low is not None and high is not None
    maps = randn(2, 1, SIZE, SIZE, seed=9).float()
    assert torch.equal(low(maps), -high(-maps))
    flat, none = maps.flatten(2), torch.zeros(2, 1, 2, SIZE * SIZE)
    assert torch.equal(low.heights(flat, none)[:, :, 0], -high.heights(-flat, none)[:, :, 1])


def test_only_pixels_beside_a_plateau_are_decided_anew() -> None:
    fronts, maps = fronts_of(bubbles()), bubbles(4).clamp_min(-0.99)
    maps[maps > -0.9] = 1.0
    low, edge = -1.0, float(fronts.until[0, 0])
    places = torch.tensor([0.0, MARGIN / 2, MARGIN * 1.01, 0.5, 0.99, 1.0, 1.5])
    estimate = maps.clone()
    estimate[0, 0, 8, :7] = low + (edge - low) * places
    found = fronts(maps, estimate, 0.1)
    changed = (found != estimate)[0, 0, 8, :7].tolist()
    assert changed == [False, False, True, True, True, False, False]
    assert torch.equal((found != estimate).nonzero()[:, 2].unique(), torch.tensor([8]))


def test_it_is_the_posterior_mean_over_the_patches() -> None:
    """Against the sum written out in float64, at one pixel in the middle and at a corner."""
    fronts, noise = fronts_of(bubbles()), 0.2
    y = bubbles(2) + noise * randn(2, 1, SIZE, SIZE, seed=5).float()
    estimate = torch.full_like(y, -0.5)  # all of it in the gap
    found = fronts(y, estimate, noise)
    wide = torch.nn.functional.pad(y, (1, 1, 1, 1), mode="reflect").double()
    patches = fronts.patches.double()
    for row, column in ((5, 9), (0, 15)):
        patch = wide[1, 0, row : row + SIDE, column : column + SIDE].flatten()
        weight = torch.softmax(-(patch - patches).square().sum(1) / (2 * noise**2), dim=0)
        known = float(weight @ patches[:, SIDE**2 // 2])
        # exponents of some 9 * 2^2 / (2 * 0.04) = 450 in float32 err by 450 * 2^-24 a few times
        assert abs(float(found[1, 0, row, column]) - known) < 1e-3


def test_channels_are_told_together_and_decided_apart() -> None:
    """One of two channels has a plateau: it is decided by patches of both, the other is left."""
    both = torch.cat([bubbles(), 0.3 * randn(12, 1, SIZE, SIZE, seed=9).float()], dim=1)
    fronts, noise = fronts_of(both), 0.2
    assert fronts.plateaus.there.tolist() == [[True, False], [False, False]]
    y = both[:2] + noise * randn(2, 2, SIZE, SIZE, seed=5).float()
    estimate = torch.full_like(y, -0.5)
    found = fronts(y, estimate, noise)
    assert torch.equal(found[:, 1], estimate[:, 1])
    patch = y[1, :, 4:7, 8:11].double().flatten()  # channel by channel, as patches are
    far = (patch - fronts.patches.double()).square().sum(1)
    weight = torch.softmax(-far / (2 * noise**2), dim=0)
    known = float(weight @ fronts.patches.double()[:, SIDE**2 // 2])
    assert abs(float(found[1, 0, 5, 9]) - known) < 1e-3


def test_between_two_values_it_is_a_logistic_function() -> None:
    """Flat patches of 0 and 1: `1 / (1 + exp(-9 (2 y - 1) / (2 s^2)))`, steep as noise falls."""
    flat = torch.cat([torch.zeros(6, 1, SIZE, SIZE), torch.ones(6, 1, SIZE, SIZE)])
    plateaus = Plateaus(
        torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 1.0]]), torch.tensor([[True, False]])
    )
    fronts = Fronts(plateaus, torch.tensor([[1.0, 1.0]]), flat[::6].flatten(1)[:, : SIDE**2])
    for value, noise in ((0.55, 0.6), (0.45, 0.3), (0.52, 0.1)):
        y = torch.full((1, 1, SIZE, SIZE), value)
        found = fronts(y, torch.full_like(y, 0.5), noise)
        known = torch.sigmoid(torch.tensor(9 * (2 * value - 1) / (2 * noise**2)))
        assert torch.allclose(found, known.expand_as(found), atol=1e-5)


def test_pixels_near_a_front_fall_on_one_side_of_it() -> None:
    """Means of truth and noise about half way leave the gap, nearly all on their own side."""
    fronts, truth = fronts_of(bubbles(60)[12:]), bubbles(60)[:12]
    low, edge = -1.0, float(fronts.plateaus.edge[0, 0])
    y = truth + 0.15 * randn(*truth.shape, seed=6).float()
    blurred = torch.nn.functional.avg_pool2d(y, 3, 1, 1, count_include_pad=False)
    inside = (blurred > low + MARGIN * (edge - low)) & (blurred < edge)
    assert 0.1 < float(inside.float().mean()) < 0.9
    found = fronts(y, blurred, 0.15)[inside]
    left = ((found > low + MARGIN * (edge - low)) & (found < edge)).float().mean()
    right = ((found > (low + edge) / 2) == (truth[inside] > -1)).float().mean()
    # Sides are 1.1 or more apart, over 7 noises: a pixel by itself is right in all but 2e-4.
    assert float(left) < 0.05 and float(right) > 0.95  # patches do not have every front


def test_half_of_the_pixels_beyond_a_gap_are_asked_about() -> None:
    low, high = bubbles(), -bubbles()
    until = fronts_of(low).until
    assert float(until[0, 0]) == pytest.approx(float(low[low > -1].median()), abs=1e-3)
    assert torch.equal(fronts_of(high).until, -until.flip(1))


def test_noise_that_leaves_the_side_in_doubt_changes_nothing() -> None:
    fronts, estimate = fronts_of(bubbles()), torch.full((2, 1, SIZE, SIZE), -0.5)
    denoiser: Denoiser = FrontDenoiser(Fixed(estimate), fronts)
    high, low = LINEAR.index_of(fronts.plateaus.gap() / 2), LINEAR.index_of(0.1)
    x_t = randn(2, 1, SIZE, SIZE, seed=8).float()
    assert torch.equal(denoiser(x_t, high), estimate)
    assert not torch.equal(denoiser(x_t, low), estimate)
