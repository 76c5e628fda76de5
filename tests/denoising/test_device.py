"""The same answers on a GPU as on the CPU, to the tolerance of float32 kernels."""

import pytest
import torch

from ood_core.arrays import Maps
from ood_core.config.method import SteeringSpec
from ood_core.denoising.aims import StatisticAims
from ood_core.denoising.calibrated import (
    EXPERTS,
    BandWeights,
    CalibratedDenoiser,
    TargetExperts,
)
from ood_core.denoising.hats import band_knots
from ood_core.denoising.statistics import Statistics
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.sampling import decode, invert
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import isotropic
from ood_core.numerics.random import SeedRange, normal

SCHEDULE = NoiseSchedule.linear()
SHAPE = (1, 16, 16)
DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
        ],
    ),
]


def stack(targets: Maps) -> CalibratedDenoiser:
    """A calibrated denoiser with equal weights over an analytic base and the targets' laws."""
    laws = TargetExperts.fit(targets, SCHEDULE, 0.5, 2, ("flip",))
    base = GaussianDenoiser(SCHEDULE, torch.zeros(SHAPE), isotropic(0.2, SHAPE))
    weights = torch.full((2, 4, len(EXPERTS)), 1 / len(EXPERTS))
    bands = BandWeights(torch.tensor([0.01, 100.0]), band_knots(16, 16, 4), weights)
    return CalibratedDenoiser(base, laws, bands, laws.assign(targets))


@pytest.mark.parametrize("device", DEVICES)
def test_inversion_and_decoding_stay_on_the_device(device: str) -> None:
    targets = 0.3 * normal(SeedRange(1, 0, 12), SHAPE)
    grid = SCHEDULE.log_snr_grid(9, 700)
    denoiser = stack(targets)
    done = invert(denoiser, targets.to(device), grid, iterations=3)
    assert done.latents.device.type == device
    expected = invert(denoiser, targets, grid, iterations=3)
    # Eight steps whose float32 errors (1e-6 of values below 4) a step amplifies by less than 10.
    torch.testing.assert_close(done.latents.cpu(), expected.latents, rtol=0, atol=1e-3)
    back = decode(denoiser, "ddim", done.latents, grid)
    torch.testing.assert_close(back.cpu(), expected.round_trip, rtol=0, atol=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_steering_stays_on_the_device_and_lowers_the_distance(device: str) -> None:
    targets = 0.3 * normal(SeedRange(2, 0, 12), SHAPE)
    statistics = Statistics(16)
    aims = StatisticAims.measure(statistics, targets, ("flip",), 3)
    aim, _ = aims.draw(SeedRange(3, 0, 12))
    steered = SteeredDenoiser(stack(targets), statistics, aim, aims, SteeringSpec(radial_bins=0))
    x_t = normal(SeedRange(4, 0, 12), SHAPE).to(device)
    t = SCHEDULE.index_of(1.0)
    plain = stack(targets)(x_t, t)
    pulled = steered(x_t, t)
    assert pulled.device.type == device
    assert bool((steered.distance(pulled) < steered.distance(plain)).all())
