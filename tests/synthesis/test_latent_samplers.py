"""What latents are made of: distributions in closed form, and how each sampler is accepted or
refused.

In `d` dimensions a mean square of standard normals spreads by `(2/d)^1/2`; tolerances are five of
these, unless said otherwise.
"""

import math

import pytest
import torch

from ood_core.config.method import DrawSpec
from ood_core.errors import PriorUnderdetermined
from ood_core.estimators.gaussian import GaussianPrior
from ood_core.estimators.prior import fit_gaussian
from ood_core.numerics.covariance import isotropic
from ood_core.numerics.random import SeedRange
from ood_core.numerics.sphere import exp_map, frechet_mean, log_map, project
from ood_core.synthesis.latent_samplers import (
    ClusterDraws,
    Combinations,
    Interpolations,
    LatentSampler,
    PriorDraws,
    corrected_weights,
    interpolate,
    interpolate_straight,
    latent_sampler,
)
from ood_core.synthesis.latents import ShellGeometry, draw, measure_geometry, shell_statistics
from tests.oracles import geometry

SHAPE = (3, 32, 32)
D = math.prod(SHAPE)
SIGMA, OFFSET = 0.975, 82.2  # of the published checkpoint's latents


def latents(n: int, seed: int, shape: tuple[int, ...] = SHAPE, offset: float = 0.2) -> torch.Tensor:
    noise = torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))
    return SIGMA * noise + offset


FITTED = latents(12, 1)
PRIOR = fit_gaussian(FITTED, "isotropic")
SAMPLERS: dict[str, LatentSampler] = {
    "prior": PriorDraws(PRIOR),
    "slerp": Interpolations(PRIOR, FITTED, 0.15, "slerp"),
    "grid": Interpolations(PRIOR, FITTED, "grid", "slerp"),
    "norm": Interpolations(PRIOR, FITTED, 0.15, "norm"),
    "combination": Combinations(FITTED, FITTED.mean(0), 3),
    "cluster": ClusterDraws(FITTED),
}


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_draw_depends_on_its_seed_and_attempt_alone(name: str) -> None:
    sampler = SAMPLERS[name]
    assert isinstance(sampler, LatentSampler)
    whole = sampler.sample(SeedRange(3, 0, 6))
    assert whole.latents.shape == (6, *SHAPE) and whole.latents.dtype == torch.float32
    for start, stop in ((0, 2), (2, 3), (3, 6)):
        part = sampler.sample(SeedRange(3, start, stop))
        assert torch.equal(part.latents, whole.latents[start:stop])
        assert torch.equal(part.sources, whole.sources[start:stop])
    again = sampler.sample(SeedRange(3, 0, 6), attempt=1)
    assert bool((again.latents != whole.latents).flatten(1).any(1).all())
    other = sampler.sample(SeedRange(4, 0, 6))
    assert bool((other.latents != whole.latents).flatten(1).any(1).all())


def test_the_spec_names_the_sampler() -> None:
    assert isinstance(latent_sampler(None, PRIOR, FITTED), PriorDraws)
    for name in ("slerp", "norm", "combination", "cluster", "prior"):
        spec = DrawSpec(sampler=name, accept="latents").filled()
        drawn = latent_sampler(spec, PRIOR, FITTED).sample(SeedRange(3, 0, 6))
        assert torch.equal(drawn.latents, SAMPLERS[name].sample(SeedRange(3, 0, 6)).latents)
        assert drawn.sources.shape[1] == spec.sources


def test_interpolation_is_the_published_formula() -> None:
    a, b = (rows.double() for rows in latents(2, 2).split(1))
    u, v = a / a.norm(), b / b.norm()
    theta = torch.arccos((u * v).sum())
    for t in (0.0, 1 / 21, 0.5, 20 / 21, 1.0):
        arc = (torch.sin((1 - t) * theta) * u + torch.sin(t * theta) * v) / torch.sin(theta)
        expected = arc * ((1 - t) * a.norm() + t * b.norm())
        torch.testing.assert_close(interpolate(a, b, t), expected, rtol=0, atol=1e-10)
        straight = interpolate_straight(a, b, t)
        assert float(straight.norm()) == pytest.approx(float(expected.norm()))
    half = interpolate_straight(a, b, 0.5)
    direction = (a + b) / (a + b).norm()
    torch.testing.assert_close(half / half.norm(), direction, rtol=0, atol=1e-12)


def test_interpolations_lie_between_their_source_and_the_prior_draw() -> None:
    seeds = SeedRange(5, 0, 4)
    fresh = PRIOR.sample(seeds)
    drawn = SAMPLERS["slerp"].sample(seeds)
    for row in range(4):
        source = FITTED[drawn.sources[row]]
        expected = interpolate(source, fresh[row][None], 0.15)[0]
        assert torch.equal(drawn.latents[row], expected)
    assert drawn.weights.tolist() == [[pytest.approx(0.85)]] * 4
    shares = 1 - SAMPLERS["grid"].sample(SeedRange(5, 0, 200)).weights[:, 0]
    points = (shares * 21).round()
    torch.testing.assert_close(shares * 21, points, rtol=0, atol=1e-5)
    assert set(points.int().tolist()) == set(range(1, 21))


def test_the_published_midpoint_inflates_the_mean() -> None:
    """The published constants: distance 607.2 and angle 87.2 where real ones have 611.4 and 88."""
    d = 3 * 256 * 256
    some = latents(12, 3, (3, 256, 256), OFFSET / math.sqrt(d))
    middle = interpolate(some[:1], some[1:2], 0.5)
    _, distance, angle = shell_statistics(middle, some[2:])
    expected = geometry.slerp_middle(d, SIGMA, OFFSET)
    assert float(distance) == pytest.approx(expected[0], abs=5 * SIGMA)
    assert float(angle) == pytest.approx(expected[1], abs=5 * math.degrees(1 / math.sqrt(d)))
    assert expected == pytest.approx((607.2, 87.2), abs=0.2)


@pytest.mark.parametrize("n", [2, 4, 8])
def test_corrected_combinations_keep_the_variance(n: int) -> None:
    """Ratio 1.00 at every n; without the correction it is 1 - alpha^2 / (n beta)."""
    d = 10**6
    some = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    residuals = some - some.mean(0)
    weights = torch.tensor([[0.7, 0.2] + [0.1] * (n - 2)], dtype=torch.float64)
    alpha, beta = float(weights.sum()), float((weights**2).sum())
    keeping = (corrected_weights(weights, n).float() @ residuals).square().mean()
    plain = ((weights / math.sqrt(beta)).float() @ residuals).square().mean()
    expected = 1 - alpha**2 / (n * beta)
    tolerance = 5 * math.sqrt(2 / d)
    assert float(keeping) == pytest.approx(1.0, rel=tolerance)
    assert float(plain) == pytest.approx(expected, rel=tolerance)
    assert expected < 0.9 or n == 8


def test_combinations_have_the_mean_and_the_distances_of_theory() -> None:
    """`E|y - z_j|^2 = sigma^2 d (2 - 1/n + 2 c alpha / n)` to latents that are no parents.

    A distance spreads by sigma, but the mean of nine of them shares the draw: 5 sigma / 30^1/2 for
    the mean of 30 draws.
    """
    n = len(FITTED)
    drawn = Combinations(FITTED, FITTED.mean(0), 3).sample(SeedRange(6, 0, 30))
    distance = shell_statistics(drawn.latents, FITTED, drawn.used(n))[1]
    sums = drawn.weights.double().sum(1)  # c alpha
    expected = SIGMA * (D * (2 - 1 / n + 2 * sums / n)).sqrt()
    assert float((distance - expected).mean().abs()) < 5 * SIGMA / math.sqrt(30)
    real = geometry.distance(D, SIGMA)
    assert float((distance - real).mean().abs()) > 10 * SIGMA / math.sqrt(30)  # published centre
    beta = (drawn.weights.double() ** 2).sum(1)
    torch.testing.assert_close(beta - sums**2 / n, torch.ones(30).double())


def test_too_many_parents_are_refused() -> None:
    for parents, latents_ in ((3, 4), (10, 11), (28, 30)):
        spec, some = DrawSpec(sampler="combination", parents=parents), latents(latents_, 1)
        with pytest.raises(PriorUnderdetermined, match=r"draw\.parents"):
            latent_sampler(spec, PRIOR, some)


class TestCluster:
    def test_draws_lie_on_the_sphere_in_the_span_of_the_latents(self) -> None:
        drawn = SAMPLERS["cluster"].sample(SeedRange(7, 0, 5)).latents
        points, norms = project(drawn)
        radius = float(project(FITTED)[1].mean())
        torch.testing.assert_close(norms, torch.full((5,), radius).double())
        basis = torch.linalg.qr(project(FITTED)[0].T)[0]
        # The latents are float32: what is outside of their span is 6e-8 of each part.
        torch.testing.assert_close(points @ basis @ basis.T, points, rtol=0, atol=1e-6)

    def test_tangents_have_the_covariance_of_the_log_maps(self) -> None:
        """Near latents, so that no tangent is longer than half the sphere and log undoes exp."""
        centre = torch.zeros(1, 1, 2, 3)
        centre[..., 0, 0] = 20
        near = centre + latents(6, 8, (1, 2, 3), 0.0)
        points, _ = project(near)
        mean = frechet_mean(points)[None]
        rows = log_map(mean.expand(6, -1), points)
        expected = rows.T @ rows / 5
        drawn = project(ClusterDraws(near).sample(SeedRange(8, 0, 4000)).latents)[0]
        found = log_map(mean.expand(len(drawn), -1), drawn)
        measured = found.T @ found / len(found)
        error = torch.outer(expected.diag(), expected.diag()) + expected**2
        assert float(((measured - expected).abs() / (error / 4000).sqrt()).max()) < 5
        assert float(found.mean(0).norm()) < 5 * float((expected.trace() / 4000).sqrt())

    def test_white_latents_stay_where_draws_of_the_cluster_go(self) -> None:
        mean = frechet_mean(project(FITTED)[0])
        drawn = project(SAMPLERS["cluster"].sample(SeedRange(9, 0, 3)).latents)[0]
        back = exp_map(mean[None].expand(3, -1), log_map(mean[None].expand(3, -1), drawn))
        torch.testing.assert_close(back, drawn, rtol=0, atol=1e-6)


class TestAcceptance:
    """In many dimensions tests are sharper than few latents can fit: only what is measured on the
    sampler itself accepts it (distances to 12 latents differ by some 3 sigma)."""

    shape = (3, 96, 96)
    many = latents(12, 10, shape)
    prior = fit_gaussian(many, "isotropic")

    def accepted(self, spec: DrawSpec, geometry_: ShellGeometry | None = None) -> tuple[float, int]:
        """Share of first draws that pass, and the test that refuses most, by its place."""
        sampler = latent_sampler(spec, self.prior, self.many)
        measured = geometry_ or measure_geometry(spec, sampler, 1, self.many)
        drawn = draw(sampler, SeedRange(11, 0, 12), measured, self.many)
        return float((drawn.attempts == 1).float().mean()), int(drawn.refusals.sum(0)[1:].argmax())

    @pytest.mark.parametrize("sampler", ["prior", "slerp", "combination", "cluster"])
    def test_every_sampler_passes_its_own_intervals(self, sampler: str) -> None:
        assert self.accepted(DrawSpec(sampler=sampler).filled())[0] == 1.0

    def test_the_published_tests_refuse_draws_of_the_prior_by_their_distance(self) -> None:
        share, test = self.accepted(DrawSpec(sampler="prior", accept="latents"))
        assert (share, test) == (0.0, 1)

    def test_intervals_of_another_sampler_refuse(self) -> None:
        spec = DrawSpec(sampler="combination").filled()
        prior = measure_geometry(None, PriorDraws(self.prior), 1, self.many)
        assert self.accepted(spec, prior)[0] < 0.5

    def test_a_near_copy_passes_only_where_its_source_is_left_out(self) -> None:
        near = Interpolations(self.prior, self.many, 0.01, "slerp").sample(SeedRange(12, 0, 6))
        used = near.used(len(self.many))
        measured = ShellGeometry.published(self.many, widths=5)
        assert not bool(measured.refusals(near.latents, self.many, used).any())
        # With itself among twelve, the mean distance falls by a twelfth.
        assert bool(measured.refusals(near.latents, self.many).any(0).all())


def test_a_prior_that_was_drawn_from_is_the_prior() -> None:
    law = GaussianPrior(torch.full(SHAPE, 0.3), isotropic(4.0, SHAPE), 1.0, 0.0)
    drawn = PriorDraws(law).sample(SeedRange(13, 0, 3))
    assert torch.equal(drawn.latents, law.sample(SeedRange(13, 0, 3)))
    assert drawn.sources.shape == (3, 0) and drawn.used(5) is None
