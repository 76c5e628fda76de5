"""Every denoiser under one contract, and conversions between parametrisations."""

from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.arrays import Maps
from ood_core.config.method import SteeringSpec
from ood_core.config.pretraining import Prediction
from ood_core.denoising.aims import Novelty, StatisticAims
from ood_core.denoising.calibrated import (
    EXPERTS,
    BandWeights,
    CalibratedDenoiser,
    TargetExperts,
)
from ood_core.denoising.hats import band_knots
from ood_core.denoising.local_detail import LocalDetail
from ood_core.denoising.statistics import Statistics
from ood_core.denoising.steered import SteeredDenoiser
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Denoiser, clean_from_output, training_target
from ood_core.diffusion.patches import PatchDenoiser, PatchMixture
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.diffusion.solvers import CountingDenoiser
from ood_core.models.networks import make_unet
from ood_core.models.pretrained import PretrainedDenoiser
from ood_core.numerics.covariance import isotropic
from tests.contracts.denoiser import DenoiserContract
from tests.oracles.mixture_denoiser import MixtureDenoiser
from tests.strategies import COVARIANCES, randn, repeatable

LINEAR = NoiseSchedule.linear()
SHAPE = (2, 3, 4)


def some_maps(*shape: int) -> Maps:
    return randn(*shape, seed=5).float()


def gaussian(kind: str) -> GaussianDenoiser:
    return GaussianDenoiser(LINEAR, randn(*SHAPE, seed=6), COVARIANCES[kind](SHAPE, 8))


class TestGaussian(DenoiserContract):
    # |D - x0| = s^2 |(C + s^2)^-1 (x0 - mean)| <= 1e-4 * 8 / (least eigenvalue 0.1).
    zero_noise = 8e-3

    @pytest.fixture(params=COVARIANCES)
    def denoiser(self, request: pytest.FixtureRequest) -> Denoiser:
        return gaussian(request.param)

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, *SHAPE)


class TestGaussianInFloat64(TestGaussian):
    tolerance = 1e-12  # a few hundred roundings of 1.1e-16, alpha down to 6e-3

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, *SHAPE).double()


class TestMixture(DenoiserContract):
    zero_noise = 8e-3  # as of its members

    @pytest.fixture
    def denoiser(self) -> Denoiser:
        members = [gaussian("diagonal"), gaussian("low_rank")]
        return MixtureDenoiser(LINEAR, torch.tensor([0.3, 0.7]), members)

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, *SHAPE)


class TestCalibrated(DenoiserContract):
    # Weights sum to one, so the error is at most that of the worst expert.
    zero_noise = 8e-3

    @pytest.fixture
    def denoiser(self) -> Denoiser:
        return self.of_labels([0, 1, 1])

    def rows(self, denoiser: Denoiser, order: list[int]) -> Denoiser:
        return self.of_labels([[0, 1, 1][row] for row in order])

    def of_labels(self, labels: list[int]) -> CalibratedDenoiser:
        weights = torch.softmax(randn(3, 4, len(EXPERTS), seed=9).float(), dim=-1)
        ratio = torch.tensor([0.01, 1.0, 100.0])
        bands = BandWeights(ratio, band_knots(3, 4, 4), weights)
        clusters = (gaussian("low_rank"), gaussian("diagonal"))
        laws = TargetExperts(gaussian("stationary"), clusters, torch.tensor([0.4, 0.6]))
        return CalibratedDenoiser(gaussian("diagonal"), laws, bands, torch.tensor(labels))

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, *SHAPE)


class TestSteered(DenoiserContract):
    # Adam divides gradients by their size, so that float32 noise in a gradient near zero moves a
    # pixel by up to a share of the rate: 2 steps of 0.03 * 1.15, of which a hundredth is allowed.
    tolerance = 7e-4
    timesteps = (0, 300, 500)  # outside, inside, inside
    zero_noise = 1e-3  # index 0 (0.01) lies below the interval; then s^2 |x0| / 1 <= 4e-4

    @pytest.fixture
    def denoiser(self) -> Denoiser:
        statistics = Statistics(16)
        inner = GaussianDenoiser(LINEAR, torch.zeros(1, 16, 16), isotropic(1.0, (1, 16, 16)))
        aim = statistics(0.5 * randn(1, 1, 16, 16, seed=10).float())  # one for all rows
        spec = SteeringSpec(steps=2, rate=0.03, sigma_max=2.5, radial_bins=0)
        spread, power = torch.ones(aim.shape[1]), torch.ones(1, 16, 16)
        large = torch.zeros(len(spread), dtype=torch.bool)
        near = torch.zeros(1, 1, dtype=torch.int64)
        local = LocalDetail(torch.linspace(-1, 1, 5), torch.ones(5))
        novel = Novelty(torch.zeros(1, 1, dtype=torch.float64), 0.0)
        aims = StatisticAims(aim, spread, large, near, 0, 1, power, local, novel)
        return SteeredDenoiser(inner, statistics, aim, aims, spec)

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, 1, 16, 16)


class TestPatches(DenoiserContract):
    timesteps = (0, 300, 700)
    zero_noise = 1e-3  # s^2 |y - m| / (v + s^2) with s = 0.01, v >= 0.2 and |y - m| below 2

    @pytest.fixture
    def denoiser(self) -> Denoiser:
        values, vectors = torch.linalg.eigh(torch.eye(25).expand(3, -1, -1))
        law = PatchMixture(
            weights=torch.tensor([0.2, 0.3, 0.5]),
            means=0.3 * randn(3, 25, seed=11).float(),
            values=values * torch.tensor([0.2, 0.5, 1.0])[:, None],
            vectors=vectors,
            side=5,
            scale=1,
            stride=1,
        )
        return PatchDenoiser(LINEAR, law)

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, 1, 16, 16)


class TestPretrained(DenoiserContract):
    tolerance = 1e-4  # a network of some ten layers in float32, divided by alpha in the eps case
    timesteps = (0, 300, 600)
    zero_noise = 0.1  # sigma/alpha = 0.01 times an output below 10

    @pytest.fixture(params=["epsilon", "v_prediction"])
    def denoiser(self, request: pytest.FixtureRequest) -> Denoiser:
        torch.manual_seed(1)
        network = make_unet(8, 1, (16, 16), 1, (False, True), 8)
        return PretrainedDenoiser(network, LINEAR, request.param)

    @pytest.fixture
    def maps(self) -> Maps:
        return some_maps(3, 1, 8, 8)


class TestCounting(TestMixture):
    @pytest.fixture
    def denoiser(self) -> Denoiser:
        return CountingDenoiser(gaussian("stationary"))

    def test_counts_maps_and_not_calls(self) -> None:
        counting = CountingDenoiser(gaussian("diagonal"))
        counting(some_maps(3, *SHAPE), 5)
        counting(some_maps(2, *SHAPE), 900)
        assert counting.nfe == 5


@repeatable
@given(st.sampled_from(get_args(Prediction)), st.integers(0, 999))
def test_conversion_inverts_the_training_target(prediction: Prediction, t: int) -> None:
    x0, eps = randn(2, *SHAPE, seed=t), randn(2, *SHAPE, seed=t + 1)
    alpha, sigma = LINEAR.alpha[t], LINEAR.sigma[t]
    output = training_target(x0, eps, alpha, sigma, prediction)
    x_t = alpha * x0 + sigma * eps
    back = clean_from_output(output, x_t, float(alpha), float(sigma), prediction)
    # Float64 roundings of numbers below 6, divided by alpha >= 6e-3: 6 * 4 * 1.1e-16 / 6e-3.
    torch.testing.assert_close(back, x0, rtol=0, atol=1e-12)


def test_conversions_hold_without_preserved_variance() -> None:
    x0, eps = randn(2, *SHAPE, seed=1), randn(2, *SHAPE, seed=2)
    alpha, sigma = torch.tensor(0.8).double(), torch.tensor(3.0).double()
    for prediction in get_args(Prediction):
        output = training_target(x0, eps, alpha, sigma, prediction)
        x_t = alpha * x0 + sigma * eps
        back = clean_from_output(output, x_t, float(alpha), float(sigma), prediction)
        torch.testing.assert_close(back, x0, rtol=0, atol=1e-13)


def test_parametrisations_are_not_mistaken_for_one_another() -> None:
    x0, eps = randn(2, *SHAPE, seed=1), randn(2, *SHAPE, seed=2)
    alpha, sigma = LINEAR.alpha[400], LINEAR.sigma[400]
    v = training_target(x0, eps, alpha, sigma, "v_prediction")
    x_t = alpha * x0 + sigma * eps
    wrong = clean_from_output(v, x_t, float(alpha), float(sigma), "epsilon")
    assert float((wrong - x0).abs().mean()) > 0.1


def test_a_pretrained_denoiser_is_frozen() -> None:
    torch.manual_seed(1)
    network = make_unet(8, 1, (16, 16), 1, (False, False), 8)
    denoiser = PretrainedDenoiser(network, LINEAR, "epsilon")
    assert not any(p.requires_grad for p in network.parameters())
    assert not network.training
    assert not denoiser(some_maps(1, 1, 8, 8).requires_grad_(True), 10).requires_grad
