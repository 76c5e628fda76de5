"""A turned, mirrored or moved piece is at distance 0, a foreign one is not."""

import pytest
import torch

from ood_core.config.targets import Symmetry
from ood_core.metrics.overlap import _means, _paired_modes
from ood_core.metrics.pieces import PieceSearch
from ood_core.numerics.symmetry import transform
from tests.oracles.fields import power_law
from tests.strategies import randn

TARGETS, OTHERS = power_law(12, 32, seed=1), power_law(12, 32, seed=2)


def nearest(maps: torch.Tensor, targets: torch.Tensor = TARGETS) -> dict[str, tuple[float, list]]:
    found = PieceSearch.of(targets).nearest(maps)
    return {n: (float(f.distance.max()), f.target.tolist()) for n, f in found.items()}


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("mirrored", [False, True])
def test_quarter_turns_and_mirror_images_are_found_exactly(turns: int, mirrored: bool) -> None:
    # By the middle disc: it lies between the same pixels after a turn, whatever is declared.
    turned = torch.rot90(TARGETS, turns, (-2, -1))
    distance, target = nearest(3 - 2 * (turned.flip(-1) if mirrored else turned))["whole"]
    assert distance > 0.9  # a negative is no copy
    distance, target = nearest(3 + 2 * (turned.flip(-1) if mirrored else turned))["whole"]
    assert distance < 2e-3 and target == list(range(12))


GROUP: tuple[Symmetry, ...] = ("flip", "rotate90")


def cut(y: int, x: int, side: int = 32, seed: int = 1) -> torch.Tensor:
    return power_law(12, 2 * side, seed=seed)[..., y : y + side, x : x + side].contiguous()


def least(maps: torch.Tensor, targets: torch.Tensor, name: str) -> float:
    return float(PieceSearch.of(targets, GROUP).nearest(maps)[name].distance.min())


@pytest.mark.parametrize(("y", "x"), [(0, 0), (8, 8), (-7, 3)])
@pytest.mark.parametrize("element", [0, 5])
def test_what_a_moved_window_shares_is_found(y: int, x: int, element: int) -> None:
    targets, moved = cut(16, 16), transform(cut(16 + y, 16 + x), element, GROUP)
    found = PieceSearch.of(targets, GROUP).nearest(moved)
    # Of 24 pixels that are shared at least, three at each edge were filtered with other ones.
    for name, most in (("window", 0.25), ("piece", 0.05)):
        assert float(found[name].distance.max()) < most
        assert found[name].target.tolist() == list(range(12))
        assert least(OTHERS, targets, name) > 1


@pytest.mark.parametrize(("side", "aside"), [(32, 0.5), (64, 1.0)])
def test_a_window_moved_by_half_a_pixel_of_the_search_is_found(side: int, aside: float) -> None:
    big, at = power_law(12, 2 * side, seed=1), side // 2
    k = 2 * torch.pi * torch.fft.fftfreq(2 * side)
    modes = torch.fft.fft2(big) * torch.exp(1j * aside * (k[:, None] + k))
    moved = torch.fft.ifft2(modes).real[..., at + 8 : at + 8 + side, at : at + side].float()
    found = PieceSearch.of(cut(at, at, side), GROUP).nearest(moved.contiguous())["piece"]
    assert float(found.distance.max()) < 0.65 and found.target.tolist() == list(range(12))
    assert least(cut(0, 0, side, seed=2), cut(at, at, side), "piece") > 0.95


def test_a_quadrant_in_another_map_is_found() -> None:
    pasted = OTHERS.clone()
    pasted[..., 3:19, 9:25] = TARGETS[..., 16:, :16]
    found = PieceSearch.of(TARGETS, GROUP).nearest(pasted)["piece"]
    assert (found.distance < 0.8).sum() >= 10 and least(OTHERS, TARGETS, "piece") > 1


@pytest.mark.parametrize("group", [(), GROUP])
def test_mirrored_windows_are_found_declared_or_not(group: tuple[Symmetry, ...]) -> None:
    moved = cut(24, 24).flip(-1)
    assert float(PieceSearch.of(cut(16, 16), group).nearest(moved)["piece"].distance.max()) < 0.1


def test_of_maps_that_are_no_squares_declared_images_alone_are_found() -> None:
    targets, moved = (cut(at, at)[..., :24] for at in (16, 20))
    near, far = (
        PieceSearch.of(targets, g).nearest(moved.flip(-1))["piece"] for g in (("flip",), ())
    )
    assert float(near.distance.max()) < 0.1 and float(far.distance.min()) > 0.9


def test_an_empty_sky_and_a_bright_source_are_no_pieces() -> None:
    """What two maps share by chance is one bright pixel; the sky around it is not shared."""
    generator = torch.Generator().manual_seed(0)
    a, b = (0.01 * torch.randn(8, 1, 32, 32, generator=generator) for _ in range(2))
    a[..., 9, 20], b[..., 13, 4] = 5.0, 5.0
    assert least(a, b, "piece") > 0.5 and least(a, a, "piece") < 2e-3


def test_several_channels_turn_together() -> None:
    pair = torch.cat([TARGETS, OTHERS], 1)
    assert nearest(torch.rot90(pair, 1, (-2, -1)), pair)["whole"][0] < 2e-3
    mixed = torch.cat([torch.rot90(TARGETS, 1, (-2, -1)), OTHERS], 1)
    assert nearest(mixed, pair)["whole"][0] > 0.5


def test_large_and_odd_and_tiny_maps_are_searched_as_well() -> None:
    for shape in ((96, 96), (33, 33), (17, 20), (6, 7), (2, 2)):
        maps = torch.randn(3, 1, *shape, generator=torch.Generator().manual_seed(0))
        found = PieceSearch.of(maps).nearest(maps)
        assert tuple(found) == ("whole", "window", "piece", "waves", "registered")
        assert all(float(f.distance.max()) < 2e-3 for f in found.values())


def test_a_constant_map_has_no_pieces_and_no_nans() -> None:
    found = PieceSearch.of(TARGETS).nearest(torch.zeros(2, 1, 32, 32))
    assert all(f.distance.isfinite().all() and (f.distance > 1).all() for f in found.values())


def test_of_many_targets_some_are_searched_and_keep_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ood_core.metrics.pieces.MAX_TARGETS", 4)
    for name, (_, target) in nearest(TARGETS[[3, 9]]).items():
        assert target == [3, 9], name


@pytest.mark.parametrize("count", [4, 5])
def test_correlations_by_pairs_of_targets_are_those_of_each(count: int) -> None:
    """An odd target is left over; beside sums over shifted products, in double precision."""
    targets, maps = (randn(n, 2, 6, 9, seed=n).double() for n in (count, 3))
    products = (torch.fft.fft2(maps)[:, None] * _paired_modes(targets)).sum(2)
    both = torch.fft.ifft2(products)
    for shift in ((0, 0), (2, 7)):
        moved = targets.roll(shift, (-2, -1))
        expected = torch.einsum("ncyx,tcyx->nt", maps, moved)
        found = torch.view_as_real(both[:, :, *shift]).flatten(1)[:, :count]
        torch.testing.assert_close(found, expected)


def test_means_over_boxes_are_those_of_a_sliding_window() -> None:
    maps = randn(3, 1, 9, 12, seed=4).double()
    expected = torch.nn.functional.avg_pool2d(maps, 5, 1)[:, 0]
    torch.testing.assert_close(_means(maps[:, 0], 5), expected)
