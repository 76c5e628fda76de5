"""Range transforms: closed-form values, bijection to rounding, order kept, nothing clamped."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_core.config.targets import TransformKind
from ood_core.errors import TargetError
from ood_core.maps.target_set import TargetSet
from ood_core.maps.transforms import RangeTransform

ROUNDING = 2.0**-24  # half a unit in the last place of float32, relative
KINDS: tuple[TransformKind, ...] = ("linear", "log", "asinh")

numbers = st.floats(-1e6, 1e6, allow_subnormal=False, width=32)
positive = st.floats(2.0**-20, 1e6, width=32)


def measured(kind: TransformKind, values: list[float]) -> RangeTransform | None:
    array = np.array(values, dtype=np.float32)
    if np.ptp(array) <= 1e-3 * np.abs(array).max():
        return None  # within rounding of a constant there is no range to speak of
    return RangeTransform.measure(kind, array)


def slope(transform: RangeTransform, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """d(physical) / d(model) at physical values."""
    half = (transform.high - transform.low) / 2
    if transform.kind == "linear":
        return np.full(values.shape, half)
    if transform.kind == "log":
        return half * values
    return half * np.hypot(transform.scale, values - transform.centre)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_bijection_to_rounding_also_outside_the_measured_range(
    kind: TransformKind, data: st.DataObject
) -> None:
    members = positive if kind == "log" else numbers
    transform = measured(kind, data.draw(st.lists(members, min_size=2, max_size=40)))
    if transform is None:
        return
    values = np.array(data.draw(st.lists(members, min_size=1, max_size=20)), dtype=np.float32)
    model = transform.forward(values)
    assert model.dtype == np.float32
    doubles = values.astype(np.float64)
    # One rounding of the model value, carried through the slope, and one of the answer. The factor
    # 2 covers the change of slope over a rounding and the float64 arithmetic.
    model_error = np.abs(model.astype(np.float64)) * ROUNDING
    bound = 2 * (slope(transform, doubles) * (model_error + 1e-12) + np.abs(doubles) * ROUNDING)
    back = transform.inverse(model).astype(np.float64)
    assert (np.abs(back - doubles) <= bound + 1e-45).all()


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_both_directions_keep_order(kind: TransformKind, data: st.DataObject) -> None:
    members = positive if kind == "log" else numbers
    transform = measured(kind, data.draw(st.lists(members, min_size=2, max_size=40)))
    if transform is None:
        return
    values = np.sort(np.array(data.draw(st.lists(members, min_size=2)), dtype=np.float32))
    assert (np.diff(transform.forward(values)) >= 0).all()
    model = np.linspace(-5, 5, 101, dtype=np.float32)
    assert (np.diff(transform.inverse(model)) >= 0).all()
    unbent = np.diff(transform.inverse(np.linspace(-1, 1, 9, dtype=np.float32)))
    assert (unbent > 0).all()


def test_linear_closed_form() -> None:
    transform = RangeTransform.measure("linear", np.arange(1001.0))
    assert (transform.low, transform.high) == pytest.approx((1.0, 999.0), rel=1e-14)
    np.testing.assert_allclose(
        transform.forward(np.array([1.0, 500.0, 999.0, 1498.0, -997.0])),
        [-1.0, 0.0, 1.0, 2.0, -3.0],
        rtol=ROUNDING,
        atol=1e-13,
    )


def test_log_closed_form() -> None:
    transform = RangeTransform("log", low=0.0, high=math.log(100.0))
    np.testing.assert_allclose(
        transform.forward(np.array([0.1, 1.0, 10.0, 100.0, 1000.0])), [-2, -1, 0, 1, 2], rtol=1e-7
    )
    np.testing.assert_allclose(transform.inverse(np.array([-2.0, 0, 2])), [0.1, 10, 1000], 1e-6)


def test_asinh_closed_form() -> None:
    transform = RangeTransform("asinh", low=-1.0, high=3.0, scale=2.0, centre=5.0)
    model = np.array([-1.0, -0.5, 0.0, 1.0, 1.5])
    physical = 5 + 2 * np.sinh(np.array([-1.0, 0.0, 1.0, 3.0, 4.0]))
    np.testing.assert_allclose(transform.inverse(model), physical, rtol=ROUNDING)
    np.testing.assert_allclose(transform.forward(physical), model, rtol=2 * ROUNDING)


def test_asinh_softening_is_the_noise_of_the_background() -> None:
    draw = np.random.default_rng(1)
    values = draw.normal(100.0, 3.0, 100_000)
    values[:2000] += 10 ** draw.uniform(2, 4, 2000)  # sources on 2 % of the pixels
    transform = RangeTransform.measure("asinh", values)
    # 2 % of outliers on one side move a median by about 2.5 % of sigma and the MAD by as much.
    assert transform.centre == pytest.approx(100.0, abs=0.03 * 3 + 5 * 3 * 1.25 / math.sqrt(1e5))
    assert transform.scale == pytest.approx(3.0, rel=0.03 + 5 * 1.17 / math.sqrt(1e5))


def test_asinh_falls_back_where_most_pixels_are_equal() -> None:
    values = np.zeros(1000)
    values[:100] = np.arange(1, 101)
    transform = RangeTransform.measure("asinh", values)
    assert transform.centre == 0.0
    assert transform.scale == values.std()


def test_rare_values_still_give_a_range() -> None:
    values = np.zeros(10_000)
    values[0] = 5.0
    transform = RangeTransform.measure("linear", values)
    assert (transform.low, transform.high) == (0.0, 5.0)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_model_values_stay_finite(kind: TransformKind) -> None:
    transform = RangeTransform.measure(kind, np.array([1.0, 2.0, 5.0, 100.0]))
    answer = transform.inverse(np.array([-3e38, -1e6, 1e6, 3e38], dtype=np.float32))
    assert np.isfinite(answer).all()
    assert np.isfinite(transform.forward(answer)).all()
    assert answer[0] <= answer[1] < answer[2] <= answer[3]


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_log_refuses_what_has_no_logarithm(value: float) -> None:
    values = np.array([1.0, 2.0, value])
    with pytest.raises(TargetError, match="got 1 values of zero or less.*use the transform asinh"):
        RangeTransform.measure("log", values)
    with pytest.raises(TargetError, match="asinh"):
        RangeTransform("log", 0.0, 1.0).forward(values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values", [np.full(9, 3.0), np.array([1.0, np.nan]), np.array([1.0, np.inf]), np.array([])]
)
def test_measure_refuses(kind: TransformKind, values: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TargetError, match="transform: got .*expected .*;"):
        RangeTransform.measure(kind, values)


@pytest.mark.parametrize("kind", KINDS)
def test_record_round_trip(kind: TransformKind) -> None:
    transform = RangeTransform.measure(kind, np.array([1.0, 2.0, 5.0, 100.0]))
    assert RangeTransform.from_dict(transform.as_dict()) == transform


@pytest.mark.parametrize(
    "record",
    [
        {"low": 0.0, "high": 1.0},
        {"kind": "sqrt", "low": 0.0, "high": 1.0},
        {"kind": "linear", "low": 1.0, "high": 0.0},
        {"kind": "asinh", "low": 0.0, "high": 1.0, "scale": 0.0},
        {"kind": "linear", "low": 0.0, "high": math.nan},
        {"kind": "linear", "low": 0.0, "high": 1.0, "gamma": 2.0},
        {"kind": "linear", "low": 0.0},
    ],
)
def test_impossible_records(record: dict[str, Any]) -> None:
    with pytest.raises(TargetError, match="transform: got .*expected"):
        RangeTransform.from_dict(record)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_have_one_transform_each_or_share_one(kind: TransformKind) -> None:
    """Of channels of other units every one is what it would be alone; a shared one dwarfs one."""
    rng = np.random.default_rng(0)
    alone = [scale * rng.gamma(2.0, size=(6, 1, 8, 8)).astype(np.float32) for scale in (1.0, 1e4)]
    both = np.concatenate([*alone, np.full_like(alone[0], 3.0)], axis=1)
    each = RangeTransform.measure_each(kind, both)
    ranged = each.forward(both)
    for channel, maps in enumerate(alone):
        own = RangeTransform.measure(kind, maps).forward(maps)
        np.testing.assert_array_equal(ranged[:, [channel]], own)
    assert np.isfinite(ranged).all()  # also of a channel of one value
    np.testing.assert_allclose(each.inverse(ranged), both, rtol=1e-4)
    assert RangeTransform.from_dict(json.loads(json.dumps(each.as_dict()))) == each
    if kind == "linear":
        shared = RangeTransform.measure(kind, both).forward(both)
        assert np.ptp(shared[:, 0]) < 1e-2 < np.ptp(ranged[:, 0])


def test_a_set_with_a_transform_per_channel_comes_back_in_its_unit() -> None:
    maps = np.random.default_rng(1).gamma(2.0, size=(8, 2, 16, 16)) * [[[1.0]], [[1e4]]]
    sets = [TargetSet.from_arrays(maps, per_channel=choice) for choice in (True, False)]
    for targets in sets:
        np.testing.assert_allclose(
            targets.physical(targets.model_range), maps, rtol=1e-3, atol=1e-2
        )
    assert [one.record()["transform"] for one in sets] == ["linear per channel", "linear"]
