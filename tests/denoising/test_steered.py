"""Steering: statistics with gradients, aims from seeds alone, pulls that lower the distance."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ood_core.arrays import Maps
from ood_core.config.method import SteeringSpec
from ood_core.config.targets import Symmetry
from ood_core.denoising.aims import NEAR, SPREAD_FLOOR, Novelty, StatisticAims, share_missed
from ood_core.denoising.hats import band_knots
from ood_core.denoising.plateaus import Plateaus
from ood_core.denoising.sorted_means import BLOCK_GROUPS, GROUPS, group_means
from ood_core.denoising.statistics import BANDS, LEVELS, LOW_K, Statistics, Taper, ring_means
from ood_core.denoising.steered import MOST, SteeredDenoiser
from ood_core.denoising.windowed import weights
from ood_core.diffusion.analytic import GaussianDenoiser
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.metrics.distances import Whitening
from ood_core.numerics.covariance import Stationary, filtered, wavenumbers
from ood_core.numerics.random import SeedRange
from tests.denoising.test_plateaus import bubbles
from tests.strategies import randn, repeatable

LINEAR = NoiseSchedule.linear()
SIDE, TARGETS = 16, 12
DIHEDRAL: tuple[Symmetry, ...] = ("flip", "rotate90")
STATISTICS = Statistics(SIDE)
POWER = (0.01 / (wavenumbers(SIDE, SIDE) + 1 / SIDE) ** 2)[None]
SPEC = SteeringSpec(steps=6, rate=0.2, sigma_max=2.5, radial_bins=0)
ZERO_MODE = 2 * 3 * 4 + 4 * 4 * 3  # first band power, behind the scattering moments
SCATTERING = slice(0, 2 * 3 * 4 + 4 * 4 * 3)
SORTED = GROUPS + 2 * BLOCK_GROUPS  # means of blocks of 2 and 4 px
INSIDE = 200  # sigma/alpha = 0.7


def targets(n: int = TARGETS, channels: int = 1) -> Maps:
    white = randn(n, channels, SIDE, SIDE, seed=1).float()
    power = POWER.expand(channels, -1, -1)
    return 0.5 * torch.exp(Stationary(power).colour(white, torch.empty(n, 0))) - 0.6


@pytest.fixture(scope="module")
def aims() -> StatisticAims:
    return StatisticAims.measure(STATISTICS, targets(), DIHEDRAL, neighbours=5)


@pytest.fixture(scope="module")
def even(aims: StatisticAims) -> StatisticAims:
    """Aims of maps whose detail is the same at every brightness."""
    return replace(aims, local=replace(aims.local, spread=torch.ones_like(aims.local.spread)))


INNER = GaussianDenoiser(LINEAR, torch.zeros(1, SIDE, SIDE), Stationary(POWER))


def steered(aims: StatisticAims, seeds: SeedRange, spec: SteeringSpec = SPEC) -> SteeredDenoiser:
    return SteeredDenoiser(INNER, STATISTICS, aims.draw(seeds)[0], aims, spec, seeds)


def test_every_statistic_has_a_gradient_that_is_finite() -> None:
    maps = targets(3).requires_grad_(True)
    values = STATISTICS(maps)
    assert bool(torch.isfinite(values).all())
    for column in range(values.shape[1]):
        (gradient,) = torch.autograd.grad(values[:, column].sum(), maps, retain_graph=True)
        assert bool(torch.isfinite(gradient).all())
        blind = column == ZERO_MODE  # the mean is taken off, and has a statistic of its own
        assert bool(gradient.abs().sum() > 0) is not blind, f"statistic {column}"


def test_the_gradient_is_that_of_finite_differences() -> None:
    maps, direction = targets(1), randn(1, 1, SIDE, SIDE, seed=2).float()
    jacobian = torch.autograd.functional.jacobian(STATISTICS, maps)
    slope = (jacobian * direction).flatten(2).sum(-1)
    step = 1e-3
    change = STATISTICS(maps + step * direction) - STATISTICS(maps - step * direction)
    # Statistics of order 7 in float32 are right to 1e-6, over 2e-3: 5e-4 at most, in the median a
    # fifth. Moduli bend sharply where they vanish, and a single moment may feel one such pixel.
    gap = (change / (2 * step) - slope)[0, :-SORTED].abs()
    assert float(gap.median()) < 5e-4
    assert float(gap.max()) < 0.1
    assert float(slope[0, :-SORTED].abs().max()) > 1


def test_every_pixel_pulls_in_one_group() -> None:
    maps = targets(1).requires_grad_(True)
    reached = torch.zeros(SIDE, SIDE)
    for column in range(-GROUPS, 0):
        (gradient,) = torch.autograd.grad(STATISTICS(maps)[0, column], maps)
        assert float(gradient.sum()) == pytest.approx(1, abs=1e-5)  # a mean of at most 256 pixels
        assert len(gradient.unique()) == 2  # all of the group alike, the others not at all
        reached += (gradient[0, 0] != 0).float()
    assert torch.equal(reached, torch.ones(SIDE, SIDE))


@repeatable
@given(st.integers(1, 300), st.integers(1, 30))
def test_groups_are_means_of_all_numbers_in_order(count: int, groups: int) -> None:
    weights = group_means(count, groups)
    assert weights.shape == (min(groups, count), count)
    sizes = (weights > 0).sum(1)
    assert int(sizes.min()) >= 1 and int(sizes.sum()) == count
    found = weights.double() @ torch.arange(count).double()
    ends = sizes.cumsum(0)
    middles = (ends - sizes + ends - 1).double() / 2  # of whole numbers in a row
    torch.testing.assert_close(found, middles, rtol=0, atol=1e-4)  # float32 weights of 300
    assert int(sizes[0]) <= int(sizes[len(sizes) // 2]) + 1


def test_sorted_means_of_blocks_tell_bright_pixels_that_lie_together() -> None:
    """Four bright pixels side by side, or apart: the same pixel values, other means of blocks."""
    together, apart = torch.zeros(2, 1, 1, SIDE, SIDE)
    together[0, 0, 4:6, 8:10], apart[0, 0, ::8, ::8] = 1.0, 1.0
    one, other = (STATISTICS.by_name(maps) for maps in (together, apart))
    assert torch.equal(one["pixels"], other["pixels"])
    assert one["coarse"].shape == (1, 1, 2 * BLOCK_GROUPS)
    last = [BLOCK_GROUPS - 1, -1]
    tops = one["coarse"][0, 0, last], other["coarse"][0, 0, last]
    assert [part.tolist() for part in tops] == [[1.0, 0.25], [0.25, 0.0625]]


def test_a_constant_map_does_not_break_the_gradient() -> None:
    maps = torch.full((1, 1, SIDE, SIDE), 0.4, requires_grad=True)
    STATISTICS(maps).sum().backward()
    assert maps.grad is not None
    assert bool(torch.isfinite(maps.grad).all())


def test_statistics_of_channels_are_concatenated() -> None:
    maps = targets(2, channels=2)
    both = set(STATISTICS(maps)[0].tolist())
    for channel in (0, 1):
        alone = STATISTICS(maps[:, channel : channel + 1])[0]
        nearest = [min(abs(value - other) for other in both) for value in alone.tolist()]
        assert max(nearest) < 1e-5  # float32


def test_a_pull_lowers_the_distance_to_the_aim(aims: StatisticAims) -> None:
    seeds = SeedRange(3, 0, 6)
    denoiser = steered(aims, seeds)
    x_t = randn(6, 1, SIDE, SIDE, seed=4).float()
    plain, pulled = INNER(x_t, INSIDE), denoiser(x_t, INSIDE)
    assert bool((denoiser.distance(pulled) < 0.8 * denoiser.distance(plain)).all())
    others = SeedRange(3, 6, 12)  # negative control: it is the own aim that is approached
    own = denoiser.distance(plain) - denoiser.distance(pulled)
    foreign = steered(aims, others)
    assert float(own.mean()) > float((foreign.distance(plain) - foreign.distance(pulled)).mean())


@pytest.mark.parametrize("t", [INSIDE, INSIDE // 2])
def test_the_first_step_is_one_rate_in_the_coordinates(even: StatisticAims, t: int) -> None:
    """Adam's first step is the rate with the gradient's sign, whatever the gradient's size."""
    x_t = randn(3, 1, SIDE, SIDE, seed=6).float()
    plain, ratio = INNER(x_t, t), LINEAR.noise_to_signal(t)
    left_open = even.power * ratio**2 / (even.power + ratio**2)
    moved = steered(even, SeedRange(3, 0, 3), replace(SPEC, steps=1))(x_t, t) - plain
    white = filtered(moved, left_open.rsqrt())
    # 1e-6 of values of order 1 in float32, over the least root of a power.
    atol = 1e-5 / float(left_open.sqrt().min())
    assert float((white.abs() - 0.2).abs().quantile(0.99)) < atol  # some gradients nearly vanish


@pytest.mark.parametrize("size", [16, 17])
def test_rings_part_the_map_about_its_centre(size: int) -> None:
    rings = ring_means(size, 5)
    torch.testing.assert_close(rings.sum((-2, -1)), torch.ones(5))
    assert bool(((rings > 0).sum(0) == 1).all())
    for image in (rings.flip(-1), torch.rot90(rings, 1, (-2, -1))):
        torch.testing.assert_close(image, rings)
    offset = torch.arange(size) - (size - 1) / 2
    radius = torch.hypot(offset[:, None], offset[None, :])
    ends = [float(radius[ring > 0].max()) for ring in rings]
    wanted = [float(radius.max()) * (i / 5) ** 1.3 for i in range(1, 6)]
    assert all(end <= most + 1e-4 for end, most in zip(ends, wanted, strict=True))


def test_rings_are_means_over_rings_and_change_no_other_statistic() -> None:
    maps = targets(2)
    with_rings, without = Statistics(SIDE, radial_bins=3).by_name(maps), STATISTICS.by_name(maps)
    expected = torch.einsum("ncyx,ryx->ncr", maps, ring_means(SIDE, 3))
    torch.testing.assert_close(with_rings.pop("rings"), expected)
    assert without.pop("rings").numel() == 0
    assert with_rings.keys() == without.keys()
    assert all(torch.equal(with_rings[name], without[name]) for name in without)


class Shuffled(Statistics):
    """The same statistics in another order."""

    def by_name(self, maps: Maps) -> dict[str, torch.Tensor]:
        return dict(sorted(super().by_name(maps).items(), reverse=True))


def test_a_taper_hides_the_step_from_border_to_border() -> None:
    """Of a ramp, the amplitude of `k` waves is `~ 1 / k` for the step, and `~ 1 / k^3` tapered.

    Half its log power about 8 waves falls by `ln 8^2 = 4.2` more, and by 3 at least.
    """
    side = 32
    ramp = torch.linspace(-1, 1, side).expand(1, 1, side, side)
    fade = Taper(torch.zeros(1, 1, 1), weights((side, side)))
    whole, faded = (Statistics(side, taper=t).by_name(ramp)["bands"][0, 0] for t in (None, fade))
    middle = int((band_knots(side, side, BANDS) - 8 / side).abs().argmin())
    assert float(faded[middle] - faded[1]) < float(whole[middle] - whole[1]) - 3
    again = Statistics(side).by_name(fade(ramp))["bands"][0, 0]
    assert torch.equal(again, faded)


def test_what_is_of_the_largest_waves_is_said_by_name_and_not_by_position() -> None:
    maps, other = targets(3, channels=2), Shuffled(SIDE)
    marked, moved = STATISTICS.low_k(2), other.low_k(2)
    assert torch.equal(
        STATISTICS(maps)[:, marked].sort().values, other(maps)[:, moved].sort().values
    )
    assert not torch.equal(marked, moved)  # negative control: they have moved


def test_a_mark_of_a_statistic_that_is_not_there_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(LOW_K, "brand_new", slice(None))
    with pytest.raises(KeyError, match="brand_new"):
        STATISTICS.low_k(1)


@pytest.mark.parametrize("channels", [1, 2])
def test_statistics_of_the_largest_waves_do_not_feel_small_ones(channels: int) -> None:
    """The mean and three bands per channel: of a constant and a fine grid only the mean is felt."""
    marked = STATISTICS.low_k(channels)
    maps = targets(3, channels)
    assert len(marked) == STATISTICS(maps).shape[1]
    assert int(marked.sum()) == 4 * channels
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    fine = 0.1 * (-1.0) ** (x + y)  # power at the corner of Fourier space alone
    change = STATISTICS(maps + fine) - STATISTICS(maps)
    assert float(change[:, marked].abs().max()) < 1e-5  # float32
    assert float(change[:, ~marked].abs().max()) > 0.1
    wave = 0.5 * torch.cos(2 * torch.pi * x / SIDE)
    shift = STATISTICS(maps + wave + 0.3) - STATISTICS(maps)
    felt = shift[:, marked].abs().amax(0)
    assert int((felt > 0.1).sum()) >= 2 * channels  # the mean, and the band of the longest wave


def test_low_k_weight_that_count_more_end_nearer_to_their_aims(aims: StatisticAims) -> None:
    x_t, seeds = randn(6, 1, SIDE, SIDE, seed=4).float(), SeedRange(3, 0, 6)
    aim, left = aims.draw(seeds)[0], {}
    for weight in (1.0, 3.0):
        spec = replace(SPEC, steps=30, rate=0.1, low_k_weight=weight)
        pulled = steered(aims, seeds, spec)(x_t, INSIDE)
        gaps = ((STATISTICS(pulled) - aim) / aims.spread).square().mean(0)
        left[weight] = float(gaps[aims.low_k].mean()), float(gaps[~aims.low_k].mean())
    assert left[3.0][0] < 0.9 * left[1.0][0]
    assert left[3.0][1] > left[1.0][1]  # and the others pay for it


def test_a_map_at_its_aim_has_no_distance(aims: StatisticAims) -> None:
    x0 = targets()[:2]
    at_aim = SteeredDenoiser(INNER, STATISTICS, STATISTICS(x0), aims, SPEC)
    assert float(at_aim.distance(x0).max()) == 0


def test_how_far_pixels_lie_beyond_an_edge_is_no_gap() -> None:
    maps = bubbles()
    deeper = torch.where(maps == -1, maps - 0.5 * torch.rand(maps.shape), maps)
    gaps = {}
    for plateaus in (Plateaus.of(maps), None):
        statistics = Statistics(SIDE, plateaus=plateaus)
        aims = StatisticAims.measure(statistics, maps, (), 5)
        denoiser = SteeredDenoiser(INNER, statistics, statistics(maps), aims, SPEC)
        gaps[plateaus is None] = float(denoiser.distance(deeper).min())
    assert gaps[False] < 1e-2 < 1 < gaps[True]  # spreads; the former is rounding of set pixels


def test_a_level_between_a_plateau_and_the_rest_counts_its_pixels() -> None:
    """The power above it is that of the bubbles' mask, whatever their share of a map."""
    maps = bubbles()
    statistics = Statistics(SIDE, plateaus=Plateaus.of(maps))
    mask = (maps > -1).float()
    # the soft step is sigmoid(-2.5) = 0.08 at the plateau and 0.92 or more beyond the edge, so the
    # amplitude of the mask is 0.85 to 1 of its own, but for what the step varies above the edge
    found = statistics.by_name(maps)["excursions"][:, 0, :8]
    own = STATISTICS.by_name(mask)["bands"][:, 0, 1:]
    assert bool(((found - own).exp() > 0.8).all() and ((found - own).exp() < 1.05).all())


def test_a_wide_gap_pulls_no_more_than_a_narrower_one(even: StatisticAims) -> None:
    """An aim that cannot be reached must not outweigh the others."""
    seeds, x_t = SeedRange(3, 0, 2), randn(2, 1, SIDE, SIDE, seed=5).float()
    near = STATISTICS(INNER(x_t, INSIDE))
    pulled = []
    for spreads in (4 * MOST, 400 * MOST):
        aim = near.clone()
        aim[:, -2] += spreads * even.spread[-2]
        pulled.append(SteeredDenoiser(INNER, STATISTICS, aim, even, SPEC, seeds)(x_t, INSIDE))
    assert torch.equal(*pulled)
    assert not torch.equal(pulled[0], INNER(x_t, INSIDE))


@pytest.mark.parametrize(("t", "touched"), [(20, True), (INSIDE, True), (700, False)])
def test_levels_above_the_limit_are_left_alone(aims: StatisticAims, t: int, touched: bool) -> None:
    denoiser = steered(aims, SeedRange(3, 0, 2))
    x_t = randn(2, 1, SIDE, SIDE, seed=5).float()
    assert torch.equal(denoiser(x_t, t), INNER(x_t, t)) is not touched


def test_a_sample_does_not_feel_its_batch_mates(aims: StatisticAims) -> None:
    x_t = randn(5, 1, SIDE, SIDE, seed=6).float()
    batch = steered(aims, SeedRange(3, 10, 15))(x_t, INSIDE)
    for row in range(5):
        alone = steered(aims, SeedRange(3, 10 + row, 11 + row))(x_t[row : row + 1], INSIDE)[0]
        gap = (alone - batch[row]).abs()
        # Adam turns rounding in a gradient near zero into a share of a step; that may move single
        # pixels by one of 6 steps of 0.05 * 0.85, and the map as a whole by a hundredth of it.
        assert float(gap.mean()) < 4e-4
        other = (batch[(row + 1) % 5] - batch[row]).abs()
        assert float(other.mean()) > 100 * float(gap.mean())


def test_no_gradient_leaves_the_denoiser(aims: StatisticAims) -> None:
    x_t = randn(1, 1, SIDE, SIDE).float().requires_grad_(True)
    assert not steered(aims, SeedRange(3, 0, 1))(x_t, INSIDE).requires_grad
    with torch.inference_mode(False), torch.no_grad():
        again = steered(aims, SeedRange(3, 0, 1))(x_t, INSIDE)
    assert not again.requires_grad


def test_aims_depend_on_the_seed_alone(aims: StatisticAims) -> None:
    whole, parents = aims.draw(SeedRange(9, 0, 20))
    for start, stop in ((0, 7), (7, 20), (13, 14)):
        part, own = aims.draw(SeedRange(9, start, stop))
        assert torch.equal(part, whole[start:stop])
        assert torch.equal(own, parents[start:stop])
    assert not torch.equal(aims.draw(SeedRange(10, 0, 20))[0], whole)


def test_parents_are_two_different_targets_and_all_are_used(aims: StatisticAims) -> None:
    _, parents = aims.draw(SeedRange(9, 0, 400))
    assert int(parents.min()) >= 0
    assert int(parents.max()) < TARGETS
    assert bool((parents[:, 0] != parents[:, 1]).all())
    # Each of 12 is a first parent with chance 1/12; 5 standard errors of 400 draws.
    counts = torch.bincount(parents[:, 0], minlength=TARGETS).double()
    assert float((counts - 400 / 12).abs().max()) < 5 * (400 / 12 * 11 / 12) ** 0.5


def test_aims_are_as_far_from_targets_as_these_are_from_one_another() -> None:
    """A mixture nearer than 5 % of 200 points are is drawn anew."""
    points = randn(200, 6, 1, 1, seed=4).double().flatten(1)
    novel = Novelty.measure(points, 200)
    apart = torch.cdist(novel.moments, novel.moments) + torch.diag(torch.full((200,), torch.inf))
    assert novel.least == pytest.approx(float(apart.min(1).values.quantile(NEAR)))
    rows = torch.arange(200)[:, None].expand(-1, 2)
    other = torch.stack([rows[:, 0], (rows[:, 0] + 1) % 200], dim=1)
    copies = novel(other, torch.tensor([1.0, 0.0]).expand(200, -1))
    assert float(copies.max()) == 0
    middle = (novel.moments + novel.moments.roll(-1, 0)) / 2
    expected = torch.cdist(middle, novel.moments).min(1).values / novel.least
    found = novel(other, torch.tensor([0.5, 0.5]).expand(200, -1))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-6)  # cdist of matrix products


def test_no_aim_is_near_a_target_where_another_can_be_drawn() -> None:
    aims = StatisticAims.measure(STATISTICS, targets(64), DIHEDRAL, neighbours=16)
    rows, weights = aims._mixture(SeedRange(9, 0, 400), None, 0)
    first = aims.novel(rows, weights)
    assert float((first < 1).double().mean()) > 0.1  # negative control: without it, some are
    drawn, _ = aims.draw(SeedRange(9, 0, 400))
    white = Whitening.fit(aims.values[:64, SCATTERING])
    moments = white(drawn[:, SCATTERING])
    nearest = torch.cdist(moments, white(aims.values[:, SCATTERING])).min(1).values
    assert float((nearest < 0.999 * aims.novel.least).double().mean()) < 0.02  # 64 tries each


def test_aims_are_points_between_neighbours_plus_what_is_missed_at_another(
    aims: StatisticAims,
) -> None:
    """All neighbours are row 7, whose own are row 11: so points are these."""
    rows = torch.arange(len(aims.values))
    same = torch.full_like(aims.neighbours, 7)
    same[7] = 11
    one = replace(aims, neighbours=same, share=0.5)
    drawn, parents = one.draw(SeedRange(9, 0, 5), rows[:5])
    assert parents.tolist() == [[row, 7] for row in range(5)]
    expected = aims.values[7] + 0.5 * (aims.values[7] - aims.values[11])
    torch.testing.assert_close(drawn, expected.expand(5, -1), rtol=1e-5, atol=1e-5)


def test_the_share_follows_from_the_variances() -> None:
    """The closed form beside draws of its own pairs and points."""
    values = randn(300, 3, seed=4)
    distance = torch.cdist(values, values).fill_diagonal_(torch.inf)
    neighbours = distance.topk(5, largest=False).indices
    generator = torch.Generator().manual_seed(7)
    share = share_missed(values, neighbours)

    def points(rows: torch.Tensor) -> torch.Tensor:
        pairs = torch.rand(len(rows), 5, generator=generator).argsort(-1)[:, :2]
        a, b = values[neighbours[rows[:, None], pairs]].unbind(1)
        return torch.lerp(a, b, torch.rand(len(rows), 1, generator=generator).double())

    rows = torch.arange(300).repeat(1000)
    others = neighbours[rows, torch.randint(5, (len(rows),), generator=generator)]
    drawn = points(rows) + share * (values[others] - points(others))
    assert 0.1 < share < 1
    # 300,000 draws know a variance to 0.3 %.
    assert float(drawn.var(dim=0).sum() / values.var(dim=0).sum()) == pytest.approx(1, rel=0.01)
    assert share_missed(values, neighbours[:, :1]) <= 1


def test_aims_spread_as_targets_do_and_are_as_far_from_them() -> None:
    """Points between a target and its neighbour do less: the controls that must fail.

    Of fields of one law aims are nearer than real maps all the same. Means of 2,000 draws have
    errors of 0.03 spreads, and those of 64 targets, whose neighbours are not drawn evenly, of 0.12.
    """
    many = StatisticAims.measure(STATISTICS, targets(64), (), neighbours=16)
    real = many.values / many.spread
    drawn = many.draw(SeedRange(9, 0, 2000))[0] / many.spread
    distance = torch.cdist(real, real).fill_diagonal_(torch.inf)
    left_out, second = distance.min(dim=1)
    points = torch.lerp(real, real[second], torch.rand(64, 1, generator=torch.manual_seed(1)))
    spread, near = [], []
    for some in (drawn, points):
        spread.append(float(some.var(dim=0).sum() / real.var(dim=0).sum()))
        near.append(float(torch.cdist(some, real).amin(1).median() / left_out.median()))
    assert 0.85 < spread[0] < 1.15
    assert spread[1] < 0.85
    assert 1 > near[0] > 1.05 * near[1]
    assert float((drawn.mean(0) - real.mean(0)).abs().max()) < 0.6


def test_power_above_a_level_tells_one_object_from_many() -> None:
    """Sixteen bright pixels in a block or apart: a boundary of 16 sides against one of 64.

    Power at the smallest scales grows with the boundary, at the largest with the size of pieces.
    """
    block, apart = torch.zeros(2, 1, 1, SIDE, SIDE)
    block[0, 0, 4:8, 4:8], apart[0, 0, ::4, ::4] = 1.0, 1.0
    one, other = (
        STATISTICS.by_name(maps)["excursions"].unflatten(-1, (len(LEVELS), -1))
        for maps in (block, apart)
    )
    assert bool(((other - one)[0, 0, :, -2:] > 1).all())
    assert bool(((other - one)[0, 0, :, :2] < 0).all())
    brighter = STATISTICS.by_name(3 * block + 1)["excursions"]
    torch.testing.assert_close(brighter.unflatten(-1, (len(LEVELS), -1)), one, rtol=1e-3, atol=1e-3)


def test_neighbours_are_never_images_of_the_same_target(aims: StatisticAims) -> None:
    assert aims.values.shape[0] == 8 * TARGETS
    rows = torch.arange(len(aims.values))[:, None] % TARGETS
    assert bool((aims.neighbours % TARGETS != rows).all())
    assert aims.neighbours.shape[1] == 5


def test_neighbours_are_the_nearest_in_units_of_the_spread(aims: StatisticAims) -> None:
    standard = (aims.values / aims.spread).double()
    own = torch.arange(len(standard)) % TARGETS
    for row in (0, 17, 95):
        distance = (standard - standard[row]).norm(dim=1)
        distance[own == own[row]] = torch.inf
        nearest = distance[aims.neighbours[row]]
        assert float(nearest.max()) <= float(distance.sort().values[4]) + 1e-3  # float32 cdist


def test_few_targets_have_fewer_neighbours() -> None:
    few = StatisticAims.measure(STATISTICS, targets(3), (), neighbours=5)
    assert few.neighbours.shape == (3, 2)


def test_no_statistic_is_held_tighter_than_the_floor() -> None:
    same = targets(1).expand(4, -1, -1, -1)
    measured = StatisticAims.measure(STATISTICS, same, (), neighbours=2)
    assert torch.equal(measured.spread, torch.full_like(measured.spread, SPREAD_FLOOR))


def test_rings_of_centred_maps_are_about_their_pixel():
    """The innermost of many is that pixel alone, and all are symmetric about it."""
    for side in (8, 9):
        rings = ring_means(side, 6, centred=True)
        middle = side // 2
        assert float(rings[0, middle, middle]) > 0
        inner = rings[:, side % 2 == 0 :, side % 2 == 0 :]
        assert torch.equal(inner, inner.flip(-1)) and torch.equal(inner, inner.flip(-2))
    assert torch.equal(ring_means(9, 6, centred=True), ring_means(9, 6))
    assert not torch.equal(ring_means(8, 6, centred=True), ring_means(8, 6))
