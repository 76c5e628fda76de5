"""Stacked experts: what the weights do where the best denoiser is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.arrays import Maps
from ood_core.config.method import CalibrationSpec
from ood_core.denoising.calibrated import (
    EXPERTS,
    BandWeights,
    CalibratedDenoiser,
    Groups,
    TargetExperts,
    by_name,
    calibrate_timestep,
    expert_modes,
    experts_of,
    fit_weights,
    in_order,
    noised_targets,
)
from ood_core.denoising.gate import Gate
from ood_core.denoising.hats import band_knots, hat_functions
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.denoiser import Denoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.numerics.covariance import Covariance, Diagonal, Stationary, wavenumbers
from tests.strategies import randn, repeatable

LINEAR = NoiseSchedule.linear()
SIDE = 16
MEAN = torch.full((1, SIDE, SIDE), 0.3)
POWER = (0.02 / (wavenumbers(SIDE, SIDE) + 1 / SIDE) ** 2)[None]
TIMESTEPS = (100, 300)  # sigma/alpha of 0.34 and 1.24
SPEC = CalibrationSpec(draws=4, bands=8, ridge=1e-3)


def law(cov: Covariance) -> GaussianDenoiser:
    return GaussianDenoiser(LINEAR, MEAN, cov)


EXACT, NARROW = law(Stationary(POWER)), law(Stationary(torch.full_like(POWER, 1e-4)))


def laws(gaussian: GaussianDenoiser) -> TargetExperts:
    """Both of the targets' experts are the same one."""
    return TargetExperts(gaussian, (gaussian,), torch.ones(1))


def fields(n: int, seed: int) -> Maps:
    return MEAN + Stationary(POWER).colour(
        randn(n, 1, SIDE, SIDE, seed=seed).float(), torch.empty(n, 0)
    )


class Identity:
    """The map as it is."""

    schedule = LINEAR

    def __call__(self, x_t: Maps, t: int) -> Maps:
        return x_t / float(LINEAR.alpha[t])


class Clustered:
    """Every map by the law of its cluster."""

    schedule = LINEAR

    def __init__(self, given: TargetExperts, labels: torch.Tensor) -> None:
        self.given, self.labels = given, labels

    def __call__(self, x_t: Maps, t: int) -> Maps:
        return self.given.by_cluster(x_t, t, Groups.of(self.labels, len(self.given.clusters)))


def fitted(
    targets: Maps, base: Denoiser, folds: list[TargetExperts], whole: TargetExperts, held_out: Maps
) -> CalibratedDenoiser:
    mean = whole.gaussian.mean
    found = [calibrate_timestep(targets, base, folds, mean, t, SPEC, (), 7) for t in TIMESTEPS]
    weights, gates, _ = zip(*found, strict=True)
    ratio = torch.tensor([LINEAR.noise_to_signal(t) for t in TIMESTEPS])
    knots = band_knots(SIDE, SIDE, SPEC.bands)
    bands = BandWeights(ratio, knots, torch.stack(weights), Gate.stacked(gates))
    return CalibratedDenoiser(base, whole, bands, whole.assign(held_out))


def errors(denoiser: Denoiser, x0: Maps, t: int) -> torch.Tensor:
    """Squared error per map of the denoised noised maps."""
    noise = randn(*x0.shape, seed=99).float()
    x_t = float(LINEAR.alpha[t]) * x0 + float(LINEAR.sigma[t]) * noise
    return ((denoiser(x_t, t) - x0) ** 2).flatten(1).mean(1)


@pytest.mark.parametrize("gaussian", [EXACT, NARROW], ids=["exact", "narrow"])
def test_a_gaussian_truth_is_denoised_as_well_as_can_be(gaussian: GaussianDenoiser) -> None:
    """With the law's own denoiser among the experts, or with the identity and bands alone."""
    held_out = fields(200, 2)
    calibrated = fitted(fields(64, 1), NARROW, [laws(gaussian)] * 2, laws(gaussian), held_out)
    for t in TIMESTEPS:
        ours, best = errors(calibrated, held_out, t), errors(EXACT, held_out, t)
        # 8 bands x 4 weights over 64 x 256 pixels cost 0.2 % of the error; the relative ridge of
        # 1e-3 as much; linear interpolation of the Wiener gain over a band is the rest.
        assert float(ours.mean() / best.mean()) == pytest.approx(1, abs=0.01)
        assert float(errors(NARROW, held_out, t).mean() / best.mean()) > 1.2  # negative control


def test_the_stack_beats_every_one_of_its_experts_on_held_out_maps() -> None:
    targets, held_out = fields(64, 1), fields(200, 2)
    base = law(Stationary(torch.full_like(POWER, 0.3)))  # right in variance, wrong in spectrum
    folds = TargetExperts.cross_fitted(targets, LINEAR, 0.5, 2, ())
    whole = TargetExperts.fit(targets, LINEAR, 0.5, 2, ())
    calibrated = fitted(targets, base, folds, whole, held_out)
    own = Clustered(whole, whole.assign(held_out))
    for t in TIMESTEPS:
        ours = errors(calibrated, held_out, t)
        for expert in (Identity(), base, whole.gaussian, own):
            gain = errors(expert, held_out, t) - ours  # paired: same maps, same noise
            assert float(gain.mean()) > 5 * float(gain.std()) / math.sqrt(len(gain))


def test_an_exact_base_earns_the_weight_where_the_others_are_useless() -> None:
    # Pixels of variance 0.01 and 4 in a random pattern: no filter in Fourier space can tell them.
    wide = torch.rand(1, SIDE, SIDE, generator=torch.Generator().manual_seed(3)) < 0.5
    variance = torch.where(wide, 4.0, 0.01)
    targets = MEAN + variance.sqrt() * randn(64, 1, SIDE, SIDE, seed=5).float()
    base = law(Diagonal(variance))
    for t in TIMESTEPS:
        weights, *_ = calibrate_timestep(targets, base, [laws(NARROW)] * 2, MEAN, t, SPEC, (), 7)
        identity, on_base, gaussian, cluster = weights.T
        # A band holds at least 64 x 4 draws of some 4 modes each; its residual is of the size of
        # the signal, so a weight is known to 5 / sqrt(1000) = 0.16.
        assert float((on_base - 1).abs().max()) < 0.16
        for other in (identity, gaussian, cluster):
            assert float(other.abs().max()) < 0.16


def test_a_base_that_answers_the_mean_earns_none() -> None:
    targets = fields(64, 1)
    base = law(Stationary(torch.full_like(POWER, 1e-8)))
    weights, *_ = calibrate_timestep(targets, base, [laws(EXACT)] * 2, MEAN, 300, SPEC, (), 7)
    assert float(weights[:, list(EXPERTS).index("base")].abs().max()) < 0.01


def test_regression_recovers_planted_weights() -> None:
    shape = (3, 200, 1, SIDE, SIDE)
    modes = torch.fft.fft2(randn(*shape, seed=11))
    knots = band_knots(SIDE, SIDE, 5)
    planted = randn(5, 3, seed=12)
    gains = torch.einsum("be,byx->eyx", planted, hat_functions(knots, SIDE, SIDE).double())
    clean = (modes * gains[:, None, None]).sum(0)
    found = fit_weights(modes, clean, knots, ridge=1e-9)
    # Without noise only the ridge and float32 output remain.
    torch.testing.assert_close(found.double(), planted, rtol=0, atol=1e-5)
    damped = fit_weights(modes, clean, knots, ridge=1.0)
    assert float(damped.norm()) < 0.9 * float(found.norm())


class TestSparing:
    """Experts that are not missed are not asked."""

    KNOTS = band_knots(SIDE, SIDE, 5)

    def case(self, base_share: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Clean modes: expert 0, noise of power 1 and a share of the base."""
        identity, base, other, noise = torch.fft.fft2(randn(4, 50, 1, SIDE, SIDE, seed=21))
        return torch.stack([identity, base, other]), identity + base_share * base + noise

    def kept(self, base_share: float, tolerance: float) -> list[bool]:
        weights = fit_weights(*self.case(base_share), self.KNOTS, 1e-9, tolerance)
        return weights.ne(0).any(0).tolist()

    def test_what_an_expert_is_worth_decides(self) -> None:
        # Without the base the error is 1 + share^2 of what it is with it: 4 %, or 0.04 %. Fifteen
        # weights of 12,800 modes are worth 0.1 % by chance.
        assert self.kept(0.2, 0.01) == [True, True, False]
        assert self.kept(0.02, 0.01) == [True, False, False]
        assert self.kept(0.2, 0.1) == [True, False, False]
        assert self.kept(0.02, 0.0) == [True, True, True]

    def test_the_error_stays_within_what_was_allowed(self) -> None:
        modes, clean = self.case(0.2)
        hats = hat_functions(self.KNOTS, SIDE, SIDE).double()

        def error(tolerance: float) -> float:
            weights = fit_weights(modes, clean, self.KNOTS, 1e-9, tolerance).double()
            gains = torch.einsum("be,byx->eyx", weights, hats)
            return float(((modes * gains[:, None, None]).sum(0) - clean).abs().square().sum())

        for tolerance in (0.001, 0.01, 0.1):
            assert error(0.0) <= error(tolerance) <= (1 + tolerance) * error(0.0) * (1 + 1e-6)

    def test_the_base_goes_before_one_that_is_missed_less(self) -> None:
        """Either of two could go, not both: it is the base, though the other is worth less."""
        identity, base, other, noise = torch.fft.fft2(randn(4, 50, 1, SIDE, SIDE, seed=21))
        modes = torch.stack([identity, base, other])
        # Worth 5 % and 3 %, 8 % together, each by chance 0.4 % more or less.
        clean = identity + 0.05**0.5 * base + 0.03**0.5 * other + noise
        kept = fit_weights(modes, clean, self.KNOTS, 1e-9, 0.06).ne(0).any(0).tolist()
        assert kept == [True, False, True]

    def test_nothing_is_called_that_has_no_weight(self) -> None:
        calls = []

        class Watched:
            schedule = LINEAR

            def __call__(self, x_t: Maps, t: int) -> Maps:
                calls.append(t)
                return x_t

        weights = torch.zeros(2, 6, len(EXPERTS))
        weights[0, :, list(EXPERTS).index("base")] = 1  # at the lower timestep alone
        weights[1, :, list(EXPERTS).index("gaussian")] = 1
        ratio = torch.tensor([LINEAR.noise_to_signal(t) for t in TIMESTEPS])
        bands = BandWeights(ratio, band_knots(SIDE, SIDE, 6), weights)
        labels = torch.zeros(3, dtype=torch.long)
        denoiser = CalibratedDenoiser(Watched(), laws(EXACT), bands, labels)
        x_t = randn(3, 1, SIDE, SIDE, seed=22).float()
        for t in (TIMESTEPS[0] - 50, TIMESTEPS[0], 200, TIMESTEPS[1], TIMESTEPS[1] + 50):
            denoiser(x_t, t)
        assert calls == [50, 100, 200]  # between both timesteps the base still has a share

    def test_where_nothing_has_weight_the_mean_is_all_that_is_known(self) -> None:
        weights = torch.zeros(2, 6, len(EXPERTS))
        bands = BandWeights(torch.tensor([0.01, 100.0]), band_knots(SIDE, SIDE, 6), weights)
        labels = torch.zeros(3, dtype=torch.long)
        denoiser = CalibratedDenoiser(NARROW, laws(EXACT), bands, labels)
        x_t = randn(3, 1, SIDE, SIDE, seed=23).float()
        torch.testing.assert_close(denoiser(x_t, 300), MEAN.expand_as(x_t), rtol=0, atol=1e-6)


def test_folds_have_not_seen_the_maps_that_they_are_judged_on() -> None:
    targets = fields(16, 1)
    x_t = randn(2, 1, SIDE, SIDE, seed=13).float()
    for parity in (0, 1):
        changed = targets.clone()
        changed[parity::2] += 5
        before = TargetExperts.cross_fitted(targets, LINEAR, 0.5, 2, ())[parity]
        after = TargetExperts.cross_fitted(changed, LINEAR, 0.5, 2, ())[parity]
        assert torch.equal(before.gaussian(x_t, 300), after.gaussian(x_t, 300))
        labels = torch.tensor([0, len(before.clusters) - 1])
        groups = Groups.of(labels, len(before.clusters))
        assert torch.equal(before.by_cluster(x_t, 300, groups), after.by_cluster(x_t, 300, groups))
        other = TargetExperts.cross_fitted(changed, LINEAR, 0.5, 2, ())[1 - parity]
        assert not torch.equal(before.gaussian(x_t, 300), other.gaussian(x_t, 300))


def test_a_base_is_never_shown_the_map_that_it_denoises() -> None:
    """What a fold shows the base lacks the maps that the fold is judged on; later it sees all."""
    targets, seen = fields(16, 1), []

    def show(maps: Maps) -> tuple[Maps]:
        return (maps,)

    class Base:
        schedule = LINEAR

        def __call__(self, x_t: Maps, t: int, *context: Maps) -> Maps:
            seen.append((x_t, context[0]))
            return x_t

    folds = TargetExperts.cross_fitted(targets, LINEAR, 0.5, 2, (), show=show)
    calibrate_timestep(targets, Base(), folds, MEAN, 0, SPEC, (), 7)
    assert len(seen) >= 2  # both folds; later draws go without an expert that the first one prunes
    for x_t, shown in seen:  # at the first index noise is a hundredth of the signal
        away = torch.cdist(x_t.flatten(1), shown.flatten(1)) / SIDE
        assert len(shown) == 8 and away.min() > 0.1
        assert torch.cdist(x_t.flatten(1), targets.flatten(1)).min() / SIDE < 0.03
    whole = TargetExperts.fit(targets, LINEAR, 0.5, 2, (), show=show)
    assert torch.equal(whole.context[0], targets)


def test_weights_are_a_function_of_targets_timestep_and_root() -> None:
    targets, folds = fields(8, 1), [laws(EXACT)] * 2

    def weights(t: int, root: int) -> torch.Tensor:
        found, gate, _ = calibrate_timestep(targets, NARROW, folds, MEAN, t, SPEC, ("flip",), root)
        return torch.cat([found.flatten(), gate.weights.flatten(), gate.offsets])

    assert torch.equal(weights(300, 1), weights(300, 1))
    assert not torch.equal(weights(300, 1), weights(300, 2))
    assert not torch.equal(weights(300, 1), weights(301, 1))


@repeatable
@given(st.integers(2, 20), st.integers(2, 20), st.integers(2, 12))
def test_hats_are_a_partition_of_unity(y: int, x: int, bands: int) -> None:
    hats = hat_functions(band_knots(y, x, bands), y, x)
    assert hats.shape == (bands, y, x)
    assert float(hats.min()) >= 0
    torch.testing.assert_close(hats.sum(0), torch.ones(y, x), rtol=0, atol=1e-6)  # float32
    assert int((hats > 0).sum(0).max()) <= 2


def test_hats_reproduce_linear_functions_of_the_wavenumber() -> None:
    knots = band_knots(24, 16, 7)
    summed = torch.einsum("b,byx->yx", knots, hat_functions(knots, 24, 16))
    torch.testing.assert_close(summed, wavenumbers(24, 16), rtol=0, atol=1e-6)  # float32


def test_weights_hit_their_knots_and_are_linear_in_the_logarithm() -> None:
    ratio = torch.tensor([0.1, 1.0, 100.0])
    weights = randn(3, 5, 4, seed=14).float()
    bands = BandWeights(ratio, band_knots(8, 8, 5), weights)
    for i, value in enumerate(ratio.tolist()):
        torch.testing.assert_close(bands.at(value), weights[i], rtol=0, atol=1e-6)
    torch.testing.assert_close(bands.at(10.0), (weights[1] + weights[2]) / 2, rtol=0, atol=1e-5)
    assert torch.equal(bands.at(1e-6), weights[0])
    torch.testing.assert_close(bands.at(1e9), weights[2], rtol=0, atol=1e-6)


def every_expert(base: Denoiser) -> dict[str, Denoiser]:
    """What each name means, where the cluster's law is `NARROW` and the Gaussian is `EXACT`."""
    return {"identity": Identity(), "base": base, "gaussian": EXACT, "cluster": NARROW}


@pytest.mark.parametrize("name", EXPERTS)
def test_all_weight_on_one_expert_is_that_expert(name: str) -> None:
    both, labels = TargetExperts(EXACT, (NARROW,), torch.ones(1)), torch.zeros(3, dtype=torch.long)
    base = law(Diagonal(POWER + 0.2))
    weights = torch.zeros(2, 6, len(EXPERTS))
    weights[..., list(EXPERTS).index(name)] = 1
    bands = BandWeights(torch.tensor([0.01, 100.0]), band_knots(SIDE, SIDE, 6), weights)
    x_t = randn(3, 1, SIDE, SIDE, seed=15).float()
    expected = every_expert(base)[name](x_t, 300)
    # A transform there and back of values below 10 in float32.
    ours = CalibratedDenoiser(base, both, bands, labels)(x_t, 300)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)


def test_an_entry_is_all_that_a_further_expert_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weight is the next one; the control: weights that were stored before have none for it."""
    labels, x_t = torch.zeros(3, dtype=torch.long), randn(3, 1, SIDE, SIDE, seed=15).float()
    before = [*EXPERTS, "patches 4x4, scale 1"]
    monkeypatch.setitem(EXPERTS, "double", lambda base, laws, labels: lambda x_t, t: 2 * x_t)
    weights = torch.zeros(2, 6, len(EXPERTS))
    weights[..., -1] = 1
    bands = BandWeights(torch.tensor([0.01, 100.0]), band_knots(SIDE, SIDE, 6), weights)
    made = CalibratedDenoiser(NARROW, laws(EXACT), bands, labels)(x_t, 300)
    torch.testing.assert_close(made, 2 * x_t, rtol=0, atol=1e-5)
    stored = torch.ones(2, 6, len(before))
    assert in_order(before) == (*before[:-1], "double", before[-1])
    assert by_name(stored, before, "run").mean((0, 1)).tolist() == [1, 1, 1, 1, 0, 1]


def test_modes_are_transforms_of_the_experts_minus_the_mean() -> None:
    x_t = randn(2, 1, SIDE, SIDE, seed=16).float()
    labels = torch.zeros(2, dtype=torch.long)
    experts = experts_of(NARROW, laws(EXACT), Groups.of(labels, 1))
    modes = expert_modes(x_t, 300, experts, laws(EXACT).gaussian.mean)
    assert modes.shape == (len(EXPERTS), 2, 1, SIDE, SIDE)
    back = torch.fft.ifft2(modes[list(EXPERTS).index("gaussian")]).real + MEAN
    torch.testing.assert_close(back, EXACT(x_t, 300), rtol=0, atol=1e-5)  # float32 transform


def test_clusters_are_told_apart_and_every_map_is_denoised_by_its_own() -> None:
    quiet, loud = fields(12, 17), MEAN + 4 * (fields(12, 18) - MEAN)
    targets = torch.cat([quiet, loud])
    whole = TargetExperts.fit(targets, LINEAR, 0.5, 2, ())
    labels = whole.assign(targets)
    assert labels.tolist() == [0] * 12 + [1] * 12
    torch.testing.assert_close(whole.weights, torch.tensor([0.5, 0.5]))
    clean = whole.by_cluster(targets, 300, Groups.of(labels, len(whole.clusters)))
    for number, cluster in enumerate(whole.clusters):
        mine = labels == number
        torch.testing.assert_close(clean[mine], cluster(targets[mine], 300))


def test_of_large_maps_fewer_targets_are_noised_evenly_through_the_set():
    """2^18 numbers in both halves: 32 maps of 64 px in each, and no fewer than 8."""
    kept = {side: noised_targets(torch.zeros(32, 1, side, side)) for side in (32, 64, 96, 128, 256)}
    assert {side: len(found) for side, found in kept.items()} == {
        32: 32, 64: 32, 96: 15, 128: 8, 256: 8
    }  # fmt: skip
    numbers = torch.arange(10.0)[:, None, None, None].expand(-1, 1, 256, 256)
    assert noised_targets(numbers)[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 5, 6, 7, 8]
