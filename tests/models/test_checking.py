"""What a network predicts, found from the network: three types and distributions, wrong schedules.

Networks are closed forms: the exact denoiser of a Gaussian distribution, turned into each
prediction type.
"""

from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pytest
import torch
from torch import nn

from ood_core.arrays import Maps
from ood_core.config.pretraining import Prediction
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import training_target
from ood_core.diffusion.sampling import decode
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.models.checking import NOISE_LEVELS, Denoising, denoising, readings, recognised
from ood_core.models.loading import load_model
from ood_core.models.networks import make_unet
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.numerics.covariance import Stationary, isotropic, wavenumbers
from ood_core.numerics.random import SeedRange, normal
from tests.strategies import randn

TYPES = get_args(Prediction)
LINEAR = NoiseSchedule.linear()
SIDE = 16


class Output(NamedTuple):
    sample: Maps


class Exact(nn.Module):
    """The ideal network of a prediction type for a Gaussian distribution."""

    def __init__(self, law: GaussianDenoiser, prediction: Prediction) -> None:
        super().__init__()
        self.law, self.prediction = law, prediction

    def forward(self, x_t: Maps, t: int) -> Output:
        alpha, sigma = self.law.schedule.alpha[t], self.law.schedule.sigma[t]
        x0 = self.law(x_t, t)
        eps = (x_t - float(alpha) * x0) / float(sigma)
        return Output(training_target(x0, eps, alpha.float(), sigma.float(), self.prediction))


def red(variance: float) -> Stationary:
    power = (wavenumbers(SIDE, SIDE) + 0.05) ** -3
    return Stationary((variance * power / power.mean())[None])


def gaussian(
    variance: float, mean: float = 0.0, schedule: NoiseSchedule = LINEAR
) -> GaussianDenoiser:
    return GaussianDenoiser(schedule, torch.full((1, SIDE, SIDE), mean), red(variance))


def measured(
    network: Any, declared: Prediction, side: int = SIDE, count: int = 8, steps: int = 20
) -> dict[str, Denoising]:
    """By each prediction type: draw samples by it, measure on them."""
    z = normal(SeedRange(0, 0, count), (1, side, side))
    found = {}
    base = PretrainedDenoiser(network, LINEAR, declared)
    for kind, denoiser in readings(base, declared).items():
        grid = LINEAR.log_snr_grid(steps + 1, len(LINEAR) - 1)
        found[kind] = denoising(denoiser, decode(denoiser, "ddim", z, grid), 0)
    return found


# Spread and mean of the shipped base, of one with offset (as of surveys with sky), of faint maps.
@pytest.mark.parametrize(("variance", "mean"), [(0.15, 0.1), (25.0, 7.0), (0.01, 0.0)])
@pytest.mark.parametrize("truth", TYPES)
@pytest.mark.parametrize("declared", TYPES)
def test_the_type_is_recognised_whatever_is_declared(
    truth: Prediction, declared: Prediction, variance: float, mean: float
) -> None:
    found = measured(Exact(gaussian(variance, mean), truth), declared)
    assert set(found) == set(TYPES)
    assert recognised(found) == truth
    assert found[truth].noise_fits
    wrong = [found[kind] for kind in TYPES if kind != truth]
    assert not any(reading.useful for reading in wrong)


def test_the_shipped_base_predicts_v() -> None:
    shipped = Path(__file__).parents[2] / "models" / "dead-leaves-32"
    network = load_model(str(shipped)).denoiser.network
    found = measured(network, "epsilon", side=32, count=8, steps=6)
    assert recognised(found) == "v_prediction"
    assert found["v_prediction"].useful and found["v_prediction"].noise_fits
    assert not found["epsilon"].useful and not found["sample"].useful


@pytest.mark.parametrize("prediction", TYPES)
def test_an_untrained_network_is_nothing_clear(prediction: Prediction) -> None:
    torch.manual_seed(2)
    found = measured(make_unet(SIDE, 1, (8, 16), 1, (False, False), 4), prediction)
    assert recognised(found) is None
    assert not found[prediction].useful


def test_a_law_that_two_types_explain_is_nothing_clear() -> None:
    """The v-network of white noise of unit variance is zero, as is the x0-network of zero."""
    law = GaussianDenoiser(LINEAR, torch.zeros(1, SIDE, SIDE), isotropic(1.0, (1, SIDE, SIDE)))
    assert recognised(measured(Exact(law, "v_prediction"), "v_prediction")) is None


def test_losses_and_slopes_are_those_of_the_law() -> None:
    """Mean loss `sum l s^2 / (l + s^2)` over modes `l`; posterior means are orthogonal to errors.

    With n maps the sums of squares are known to `sqrt(2 sum l^2 / n) / sum l`, here five of them,
    for the losses and, at most as much, for the spread of the maps that they are divided by.
    """
    n, law = 300, gaussian(0.5, 0.2)
    maps = law.mean + law.covariance.colour(randn(n, 1, SIDE, SIDE).float(), torch.zeros(n, 0))
    found = denoising(law, maps, root=3)
    modes = law.covariance.power.double().numpy()

    def error(parts: np.ndarray) -> float:
        return float(5 * np.sqrt(2 * (parts**2).sum() / n) / parts.sum())

    for level, loss, slope in zip(NOISE_LEVELS, found.losses, found.slopes, strict=True):
        white = (
            LINEAR.noise_to_signal(LINEAR.index_of(level * float(maps.var(dim=0).mean()) ** 0.5))
            ** 2
        )
        left = modes * white / (modes + white)
        expected = left.mean() / (0.5 * white / (0.5 + white))
        assert loss == pytest.approx(expected, rel=error(left) + error(modes))
        # eps e - e^2 = e (eps - e): the error of e per mode is left / white.
        spread = np.sqrt((left / white * (1 - left / white)).sum() / n)
        assert slope == pytest.approx(1, abs=5 * spread / (1 - left / white).sum())
    assert found.useful and found.noise_fits


@pytest.mark.parametrize("factor", [0.4, 2.5])
def test_maps_with_more_or_less_noise_than_the_network_believes(factor: float) -> None:
    """A network of another schedule: at the same index it believes `factor` times the noise."""
    ratio = factor * LINEAR.sigma / LINEAR.alpha
    alpha = 1 / torch.sqrt(1 + ratio**2)
    network = Exact(gaussian(0.15, schedule=NoiseSchedule(alpha, alpha * ratio)), "epsilon")
    found = measured(network, "epsilon")["epsilon"]
    assert not found.noise_fits


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_samples_that_no_denoiser_draws_have_infinite_losses(bad: float) -> None:
    law = gaussian(0.15)
    maps = torch.full((3, 1, SIDE, SIDE), bad)
    found = denoising(law, maps, 0)
    assert found.loss == float("inf")
    assert not found.useful and not found.noise_fits


def test_a_type_that_is_not_one_of_the_three_is_judged_alone() -> None:
    base = PretrainedDenoiser(Exact(gaussian(0.15), "epsilon"), LINEAR, "epsilon")
    assert list(readings(base, "something else")) == ["something else"]
    good = Denoising((0.5,) * 5, (1.0,) * 5)
    assert recognised({"something else": good}) == "something else"
