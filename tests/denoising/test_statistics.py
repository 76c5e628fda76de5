"""Gradients of steering in closed form, beside those of autograd in double precision."""

from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from ood_core.arrays import Maps
from ood_core.config.method import SteeringSpec
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.plateaus import Plateaus
from ood_core.denoising.sorted_means import SortedMeans, ascending
from ood_core.denoising.statistics import Statistics, Taper
from ood_core.denoising.steered import BETAS, MOST, SteeredDenoiser
from ood_core.denoising.windowed import weights
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.metrics.scattering import Scattering
from ood_core.numerics.covariance import Stationary, wavenumbers
from tests.denoising.test_plateaus import bubbles
from tests.strategies import randn

SIDE = 16
CASES = {
    "plain": (1, SIDE, SIDE),
    "channels": (2, SIDE, SIDE),
    "oblong": (1, 17, 26),
    "plateaus": (1, SIDE, SIDE),
    "taper": (2, SIDE, 24),
}


def in_double(value: Any) -> Any:
    """The same with all real numbers in double precision."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(in_double(part) for part in value)
    if isinstance(value, Statistics | Scattering | SortedMeans):
        made = copy(value)
        for name, part in vars(value).items():
            setattr(made, name, in_double(part))
        return made
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: in_double(getattr(value, field.name)) for field in fields(value)}
        return replace(value, **parts)
    return value


def case(name: str) -> tuple[Statistics, Maps]:
    """Statistics and four maps of one case, in double precision."""
    channels, y, x = CASES[name]
    plateaus = Plateaus.of(bubbles()) if name == "plateaus" else None
    fade = (
        Taper(randn(channels, 1, 1, seed=1).float(), weights((y, x))) if name == "taper" else None
    )
    made = in_double(Statistics(y, 3, x, plateaus, fade))
    noise = 0.1 * randn(4, channels, y, x, seed=2).double()
    return made, bubbles()[:4].double() + 0.2 * noise if plateaus else noise.cumsum(-1).cumsum(-2)


@pytest.mark.parametrize("name", CASES)
def test_closed_forms_are_the_gradients_of_autograd(name: str) -> None:
    """Of every statistic by itself; weights of both ways are rounded to float32, by 2^-24 each."""
    statistics, maps = case(name)
    at = maps.clone().requires_grad_()
    values = statistics(at)
    found, by_maps = statistics.vjp(maps)
    torch.testing.assert_close(found, values.detach(), rtol=1e-12, atol=1e-12)
    felt = 0
    for column in range(values.shape[1]):
        pull = torch.zeros_like(found)
        pull[:, column] = 1
        (expected,) = torch.autograd.grad(values[:, column].sum(), at, retain_graph=True)
        torch.testing.assert_close(by_maps(pull), expected, rtol=2**-23, atol=1e-8)
        felt += int(expected.abs().max() > 1e-6)
    assert felt >= values.shape[1] - maps.shape[1]  # the lowest band may see the mean alone
    pull = randn(*found.shape, seed=3).double()
    (expected,) = torch.autograd.grad(values, at, pull)
    torch.testing.assert_close(by_maps(pull), expected, rtol=2**-23, atol=1e-7)


def test_the_steps_are_those_of_adam_with_autograd() -> None:
    side, ratio = SIDE, 0.7
    power = (0.01 / (wavenumbers(side, side) + 1 / side) ** 2)[None]
    single = Statistics(side, 3)
    targets = Stationary(power).colour(randn(12, 1, side, side, seed=1).float(), torch.empty(12, 0))
    aims = StatisticAims.measure(single, targets, ("flip",), 3)
    inner = GaussianDenoiser(NoiseSchedule.linear(), torch.zeros(1, side, side), Stationary(power))
    spec, statistics = SteeringSpec(), in_double(single)
    aim, aims = statistics(targets[:5].double()), in_double(aims)
    steered = SteeredDenoiser(inner, statistics, aim, aims, spec)
    x0, detail = randn(2, 5, 1, side, side, seed=4).double()
    local, gain = 1 + 0.2 * detail, (power / (power / ratio**2 + 1)).sqrt().double()
    found = steered._pull(0.2 * x0, aim, local, gain)

    u, most = torch.zeros_like(x0), MOST * aims.spread
    adam = torch.optim.Adam([u], lr=spec.rate, betas=BETAS)
    for _ in range(spec.steps):
        maps = (0.2 * x0 + local * steered._step(u, gain)).requires_grad_()
        values = statistics(maps)
        pull = (values.detach() - aim).clamp(-most, most) * steered._slope
        (by_map,) = torch.autograd.grad(values, maps, pull)
        u.grad = steered._step(local * by_map, gain)
        adam.step()
    expected = 0.2 * x0 + local * steered._step(u, gain)
    # Gradients of 1e-5 to 1e-15; Adam divides by their size plus 1e-8, twelve times.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((expected - 0.2 * x0).abs().max()) > 0.1


def test_numbers_are_sorted_as_torch_sorts_them() -> None:
    """Ties in their order, both zeros alike, infinities at the ends."""
    numbers = randn(6, 500, seed=5).float()
    numbers[1] = numbers[1].round()
    numbers[2] = torch.where(numbers[2] > 0, 0.0, -0.0)
    numbers[3, ::7], numbers[3, 1::7] = torch.inf, -torch.inf
    numbers[4] = numbers[4] * 1e-42  # without a leading bit
    numbers[5] = 1.0
    values, order = ascending(numbers)
    expected = numbers.sort(dim=1, stable=True)
    assert torch.equal(values, expected.values)
    assert torch.equal(order, expected.indices)
