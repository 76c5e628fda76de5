"""Baselines against closed forms: group images, kept covariances, spectra, posterior draws."""

import itertools
import math

import pytest
import torch

from benchmarks.rivals.baseline import Baseline
from benchmarks.rivals.closed_forms import (
    MaskedPosterior,
    PatchComposites,
    composite,
    drawn_patches,
    masked,
    masks,
)
from benchmarks.rivals.copies import Copies
from benchmarks.rivals.gaussian import GaussianDraws, GaussianField
from benchmarks.rivals.mixing import Mixing, mix
from benchmarks.rivals.restart import Restart
from benchmarks.rivals.synthesis import Synthesis, SynthesisStatistics, descend, mirrored, start
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.estimators.prior import fit_gaussian
from ood_core.metrics.novelty import Reference, nearest
from ood_core.metrics.spectra import power_spectrum
from ood_core.numerics.covariance import isotropic
from ood_core.numerics.random import SeedRange
from tests.contracts.baseline import BaselineContract
from tests.fields import SIZE, smooth_fields
from tests.strategies import randn

SEEDS = SeedRange(3, 0, 40)


def fields(n: int = 8) -> torch.Tensor:
    maps = torch.from_numpy(smooth_fields(n))[:, None]
    return (maps - maps.mean()) / maps.std()


def exact_base(variance: float = 1.0) -> GaussianDenoiser:
    shape = (1, SIZE, SIZE)
    return GaussianDenoiser(NoiseSchedule.linear(), torch.zeros(shape), isotropic(variance, shape))


class TestCopies(BaselineContract):
    @pytest.fixture
    def method(self) -> Baseline:
        return Copies()

    def test_every_map_is_an_image_of_a_target(self, targets: torch.Tensor) -> None:
        maps = Copies()(targets, ("flip", "rotate90"), SEEDS).maps
        found = nearest(maps, targets, ("flip", "rotate90"))
        assert (found.distance == 0).all()
        assert len(found.target.unique()) > 1 and len(found.element.unique()) > 1
        # 40 of 64 images without the group would all be the identity: control
        assert (nearest(maps, targets, ()).distance > 0).any()

    def test_periodic_fields_are_shifted_as_well(self, targets: torch.Tensor) -> None:
        maps = Copies()(targets, ("translate",), SEEDS).maps
        found = Reference(targets, ()).nearest_shifted(maps)
        assert (found.distance == 0).all()
        assert len(found.shift.unique(dim=0)) > 1


class TestMixing(BaselineContract):
    needed = 4

    @pytest.fixture
    def method(self) -> Baseline:
        return Mixing()

    @pytest.mark.parametrize("weights", [(1.0, 0.0), (0.5, 0.5), (0.9, 0.1)])
    def test_weights_keep_mean_and_unbiased_covariance(self, weights: tuple[float, float]) -> None:
        targets = fields(6).double()
        pairs = list(itertools.permutations(range(6), 2))  # every draw of two different targets
        images = torch.stack([targets[list(pair)] for pair in pairs])
        shares = torch.tensor([weights] * len(pairs), dtype=torch.float64)
        mixed = mix(images, shares, targets.mean(0), 6).flatten(1)
        torch.testing.assert_close(mixed.mean(0), targets.mean(0).flatten())
        centred = mixed - mixed.mean(0)
        covariance = centred.T @ centred / len(pairs)
        torch.testing.assert_close(covariance, torch.cov(targets.flatten(1).T))

    def test_a_plain_average_does_not(self) -> None:
        targets = fields(6).double()
        plain = (targets[:, None] + targets[None]).div(2)
        spread = plain[~torch.eye(6, dtype=torch.bool)].var(0).sum()
        assert spread < 0.6 * targets.var(0).sum()


class TestGaussianField(BaselineContract):
    needed = 4

    @pytest.fixture
    def method(self) -> Baseline:
        return GaussianField()

    def test_the_spectrum_is_that_of_the_targets(self) -> None:
        targets = fields()
        drawn = GaussianField()(targets, ("flip",), SeedRange(1, 0, 400)).maps
        _, power, modes = power_spectrum(drawn)
        given = power_spectrum(targets)[1].mean((0, 1))
        # Modes are exponential, conjugate ones equal: relative error (400 modes / 2)^-1/2 each.
        error = given / torch.sqrt(400 * modes / 2)
        assert ((power.mean((0, 1)) - given).abs() < 5 * error).all()
        assert (drawn.mean((0, 1)) - targets.mean()).abs().max() < 0.5  # one mean for all pixels

    def test_means_of_maps_spread_as_those_of_the_targets(self) -> None:
        """Power of the mean is not mixed with that of the largest waves, which is another."""
        targets = fields(64) + 3 * randn(64, 1, 1, 1, seed=9).float()
        drawn = GaussianField()(targets, (), SeedRange(1, 0, 400)).maps
        ours, theirs = (maps.mean((-2, -1)).var() for maps in (drawn, targets))
        # Variances of 64 and 400 normals: relative error (2/63 + 2/399)^1/2 = 0.19, three of these.
        assert float(ours / theirs) == pytest.approx(1, abs=0.57)
        first = [power_spectrum(maps)[1][..., 0].mean() for maps in (drawn, targets)]
        # Four modes of the first annulus: (1/(64 * 4) + 1/(400 * 4))^1/2 = 0.07, five of these.
        assert float(first[0] / first[1]) == pytest.approx(1, abs=0.35)


class TestGaussianDraws(BaselineContract):
    needed = 4

    @pytest.fixture
    def method(self) -> Baseline:
        return GaussianDraws()

    def test_draws_are_those_of_the_expert(self, targets: torch.Tensor) -> None:
        made = GaussianDraws()(targets, ("flip",), SEEDS)
        law = fit_gaussian(targets, "spectral_low_rank", ("flip",), 1.0)
        assert torch.equal(made.maps, law.sample(SEEDS)) and made.notes == {"rho": law.rho}


class TestPatchComposites(BaselineContract):
    needed = 4

    @pytest.fixture
    def method(self) -> Baseline:
        return PatchComposites(steps=3)

    @pytest.mark.parametrize("side", [1, 3, 5])
    def test_of_two_flat_maps_it_is_a_tanh(self, side: int) -> None:
        # Patches of 1 and -1 with d numbers: the posterior mean of a flat v is tanh(d v / s^2).
        flat = torch.tensor([1.0, -1.0])[:, None, None, None].expand(-1, 1, SIZE, SIZE)
        value, noise = 0.1, 1.5
        estimate = composite(
            torch.full((1, 1, SIZE, SIZE), value), drawn_patches(flat, side, ()), noise, "reflect"
        )
        patches = drawn_patches(flat, side, ())
        odds = float((patches[:, 0] > 0).double().mean())  # of the patches that were drawn
        far = math.log(odds / (1 - odds)) / 2
        expected = math.tanh(side**2 * value / noise**2 + far)
        torch.testing.assert_close(estimate, torch.full_like(estimate, expected))

    def test_known_patches_are_found_again(self) -> None:
        """At a low noise level a map is the composite of its own patches, not of others."""
        maps = fields(8)
        bank = drawn_patches(maps[:4], 3, ("translate",))
        errors = [
            float((composite(some, bank, 0.02, "circular") - some).square().mean())
            for some in (maps[:4], maps[4:])
        ]
        assert errors[0] < 1e-3 < errors[1]


class TestMaskedPosterior(BaselineContract):
    needed = 4

    @pytest.fixture
    def method(self) -> Baseline:
        return MaskedPosterior(steps=3)

    def test_masks_of_white_maps_have_their_pixel_alone(self) -> None:
        # Off the diagonal the filter is 0: E[x_q | y_q] of the values that pixel q has.
        mask = masks(torch.ones(9).double(), torch.eye(9).double(), 0.7, 0.02)
        assert torch.equal(mask, torch.eye(9, dtype=torch.bool))
        images = torch.tensor([[1.0] * 9, [-1.0] * 9])
        y = torch.linspace(-1, 1, 9).reshape(1, 1, 3, 3)
        torch.testing.assert_close(masked(y, images, mask, 0.7), torch.tanh(y / 0.49))

    def test_masks_of_everything_give_a_target(self) -> None:
        """That is the posterior over the targets, which ends at one of them."""
        targets = fields(8)
        near = Copies()(targets, (), SeedRange(1, 0, 3)).maps
        y = near + 0.1 * randn(*near.shape, seed=4).float()
        everything = torch.ones(SIZE**2, SIZE**2, dtype=torch.bool)
        torch.testing.assert_close(masked(y, targets.flatten(1), everything, 0.1), near)


class TestRestart(BaselineContract):
    @pytest.fixture
    def method(self) -> Baseline:
        return Restart(base=exact_base(), steps=4)

    @pytest.mark.parametrize("ratio", [0.5, 2.0])
    def test_correlation_with_the_target_is_that_of_a_posterior_draw(self, ratio: float) -> None:
        # x0' | x_t is a draw of the posterior: cov(x0', x0) = v^2 / (v + s^2).
        targets = torch.randn(64, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        how, seeds = (
            Restart(base=exact_base(), noise_to_signal=ratio, steps=60),
            SeedRange(2, 0, 64),
        )
        made = how(targets, (), seeds)
        sources = Copies()(targets, (), seeds).maps  # the same draws of targets
        pairs = torch.stack([made.maps.flatten(), sources.flatten()])
        found = torch.cov(pairs)
        # 60 steps of a first-order scheme, each 0.06 or less in ln s; 16,384 pixels add 0.008.
        assert float(found[0, 1]) == pytest.approx(1 / (1 + ratio**2), abs=0.09)
        assert float(found[0, 0]) == pytest.approx(1, abs=0.09)

    def test_evaluations_are_counted(self, targets: torch.Tensor, method: Baseline) -> None:
        assert method(targets, (), SeedRange(0, 0, 3)).nfe == 3 * 5


class TestSynthesis(BaselineContract):
    needed = 2

    @pytest.fixture
    def method(self) -> Baseline:
        return Synthesis(steps=3)

    def test_descent_reaches_the_statistics(self) -> None:
        targets, statistics = fields(), SynthesisStatistics(SIZE)
        spread = statistics(targets).std(0).clamp_min(0.02)
        x, aim = start(targets[:1], SeedRange(0, 7, 8)), statistics(targets[:1])[0]
        before = float(((statistics(x)[0] - aim) / spread).square().mean())
        made, last = descend(statistics, x, aim, spread, steps=80)
        after = float(((statistics(made)[0] - aim) / spread).square().mean())
        assert after == pytest.approx(last)
        assert after < min(0.1**2, before / 10)  # a tenth of the targets' spread
        # It is another map than the target all the same: pixels are as far as those of others.
        apart = nearest(made, targets[:1], ()).distance / nearest(x, targets[:1], ()).distance
        assert apart > 0.5

    def test_mirror_images_have_no_jump(self) -> None:
        ramp = torch.linspace(-1, 1, SIZE).expand(1, 1, SIZE, SIZE)
        step = 2 / (SIZE - 1)
        for maps, jump in ((ramp, 2.0), (mirrored(ramp), step)):
            assert (maps - maps.roll(1, -1)).abs().max() == pytest.approx(jump)

    def test_the_ensemble_has_one_aim(self) -> None:
        targets, statistics = fields(), SynthesisStatistics(SIZE)
        made = Synthesis(steps=60, aim="ensemble")(targets, (), SeedRange(0, 0, 3))
        gaps = (statistics(made.maps) - statistics(targets).mean(0)) / statistics(targets).std(0)
        own = (statistics(targets) - statistics(targets).mean(0)) / statistics(targets).std(0)
        assert (gaps.square().mean(1) < 0.25**2).all() and own.square().mean() > 0.8
