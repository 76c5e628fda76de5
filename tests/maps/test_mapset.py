"""Sets of maps: identity by content, joining, and refusals that name file, fault and remedy."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest

from ood_core.config.targets import TargetsSpec
from ood_core.errors import ConfigError, TargetError
from ood_core.maps.mapset import MapSet, as_stack, combine, numbered_ids


def ramp(count: int = 3, channels: int = 1, size: int = 8, **changes: Any) -> MapSet:
    values: Any = np.arange(count * channels * size * size, dtype=np.float64)
    maps = MapSet(
        values.reshape(count, channels, size, size),
        ids=numbered_ids("ramp", count),
        unit="K",
        header="OBJECT  = 'RAMP'",
        source="data/ramp.fits",
    )
    return replace(maps, **changes)


def test_values_become_contiguous_float32() -> None:
    big_endian: Any = np.arange(24, dtype=">f8").reshape(4, 3, 2, 1).transpose(3, 2, 1, 0)
    maps = MapSet(big_endian, ids=("a",), unit="", header="", source="s")
    assert maps.values.dtype == np.dtype("=f4")
    assert maps.values.flags.c_contiguous
    np.testing.assert_array_equal(maps.values, big_endian)


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        ramp().unit = "Jy"  # type: ignore[misc]


def test_digest_follows_content_and_not_the_place() -> None:
    maps = ramp()
    assert maps.digest() == ramp().digest()
    assert maps.digest() == replace(maps, source="elsewhere.fits").digest()
    assert len(maps.digest()) == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"unit": "Jy"},
        {"header": ""},
        {"ids": ("a", "b", "c")},
        {"values": ramp().values + np.float32(1)},
        {"values": ramp().values.reshape(3, 1, 4, 16)},
    ],
)
def test_digest_changes_with_each_part(changes: dict[str, Any]) -> None:
    assert replace(ramp(), **changes).digest() != ramp().digest()


def test_digest_sees_the_boundary_between_unit_and_header() -> None:
    assert ramp(unit="ab", header="c").digest() != ramp(unit="a", header="bc").digest()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((4, 5), (1, 1, 4, 5)), ((3, 4, 5), (3, 1, 4, 5)), ((3, 2, 4, 5), (3, 2, 4, 5))],
)
def test_stack_axes(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape)).reshape(shape)
    stack = as_stack(values, "x.npy")
    assert stack.shape == expected
    np.testing.assert_array_equal(stack.ravel(), values.ravel())


@pytest.mark.parametrize("shape", [(), (4,), (2, 1, 1, 4, 4), (0, 4, 4)])
def test_stack_refuses_other_axes(shape: tuple[int, ...]) -> None:
    with pytest.raises(TargetError, match=r"x\.npy.*expected.*`array`"):
        as_stack(np.zeros(shape), "x.npy")


@pytest.mark.parametrize(
    ("shape", "axes", "order"),
    [
        ((6, 16, 12, 3), "nyxc", (0, 3, 1, 2)),
        ((16, 12, 6), "yxn", (2, 0, 1)),
        ((3, 16, 12), "cyx", (0, 1, 2)),
        ((1, 6, 1, 16, 12), "1n1yx", (0, 1, 2, 3, 4)),
        ((12, 16), "xy", (1, 0)),
    ],
)
def test_axes_that_are_said(shape: tuple[int, ...], axes: str, order: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    stack = as_stack(values, "x.npy", axes)
    side = dict(zip(axes, shape, strict=True))
    assert stack.shape == (side.get("n", 1), side.get("c", 1), side["y"], side["x"])
    np.testing.assert_array_equal(stack.ravel(), values.transpose(order).ravel())


@pytest.mark.parametrize("shape", [(1, 1, 5, 16, 16), (1, 1, 1, 16, 16), (1, 4, 3, 16, 16)])
def test_leading_axes_of_length_one_are_dropped(shape: tuple[int, ...]) -> None:
    values = np.arange(np.prod(shape), dtype=float).reshape(shape)
    if shape[2] > 4:  # maps of a cube, or channels of one map?
        with pytest.raises(TargetError, match=r"axes: 11?nyx for that many maps"):
            as_stack(values, "x.npy")
    else:
        np.testing.assert_array_equal(as_stack(values, "x.npy"), values[0])


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((6, 16, 16, 3), "axes: nyxc"),
        ((6, 16, 16, 1), "axes: nyxc"),
        ((16, 16, 3), "axes: yxc or yxn"),
        ((16, 16, 40), "axes: yxn"),
    ],
)
def test_channels_last_are_asked_about(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(TargetError, match=rf"x\.npy: got .*not plain to see.*{words}"):
        as_stack(np.zeros(shape), "x.npy")


def test_axes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TargetError, match="axes: nyxc; expected one letter for each axis"):
        as_stack(np.zeros((6, 16, 16)), "x.npy", "nyxc")
    with pytest.raises(TargetError, match="1 for those of length 1 alone"):
        as_stack(np.zeros((2, 6, 16, 16)), "x.npy", "1nyx")
    for axes in ("nyy", "nx", "nyxz", ""):
        with pytest.raises(ConfigError, match="expected y and x"):
            TargetsSpec(path="x.npy", axes=axes)


def test_numbered_ids() -> None:
    assert numbered_ids("m", 1) == ("m",)
    assert numbered_ids("m", 2) == ("m:0", "m:1")


def test_combine_keeps_order_ids_and_headers() -> None:
    first, second = ramp(2), ramp(1, ids=("other",), header="OBJECT  = 'B'", source="b.fits")
    both = combine([first, second])
    assert both.ids == ("ramp:0", "ramp:1", "other")
    assert both.header == "OBJECT  = 'RAMP'\nEND\nOBJECT  = 'B'"
    assert both.source == "data/ramp.fits, b.fits"
    np.testing.assert_array_equal(both.values[2], second.values[0])


def test_combine_of_one_changes_nothing() -> None:
    assert combine([ramp()]).digest() == ramp().digest()


def test_combine_tells_equal_names_of_two_files_apart() -> None:
    both = combine([ramp(2), ramp(2, source="b.fits")])
    assert both.ids == ("0/ramp:0", "0/ramp:1", "1/ramp:0", "1/ramp:1")


@pytest.mark.parametrize("other", [ramp(size=4), ramp(channels=2), ramp(unit="Jy")])
def test_combine_refuses_different_maps(other: MapSet) -> None:
    other = replace(other, source="b.fits")
    with pytest.raises(TargetError, match=r"b\.fits.*expected.*data/ramp\.fits.*`array`"):
        combine([ramp(), other])


def test_combine_refuses_nothing() -> None:
    with pytest.raises(TargetError, match="path of the targets"):
        combine([])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ids": ("a", "b")}, "one id per map"),
        ({"ids": ("a", "a", "b")}, "rename"),
        ({"values": np.zeros((3, 8, 8))}, "n, c, y, x"),
        ({"values": np.zeros((3, 1, 8, 8), complex)}, "real numbers"),
    ],
)
def test_malformed_sets(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(TargetError, match=rf"data/ramp\.fits.*{words}"):
        ramp(**changes)
