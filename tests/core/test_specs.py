"""Records of what was asked for: impossible values are refused where they are built."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ood_core.errors import ConfigError
from ood_core.gate_spec import GateSpec
from ood_core.method import resolve_method
from ood_core.recipe import PretrainSpec
from ood_core.specs import CalibrationSpec, GenerationSpec, MethodSpec, SteeringSpec, TargetsSpec
from tests.strategies import repeatable

REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (TargetsSpec, {"path": "a", "held_out": 0.0}, "held_out"),
    (TargetsSpec, {"path": "a", "held_out": -1.0}, "held_out"),
    (TargetsSpec, {"path": "a", "held_out": 2.5}, "held_out"),
    (TargetsSpec, {"path": "a", "held_out": float("nan")}, "held_out"),
    (TargetsSpec, {"path": "a", "held_out": float("inf")}, "held_out"),
    (TargetsSpec, {"path": "a", "symmetries": ("flip", "flip")}, "symmetries"),
    (CalibrationSpec, {"draws": 0}, "draws"),
    (CalibrationSpec, {"bands": 1}, "bands"),
    (CalibrationSpec, {"ridge": 0.0}, "ridge"),
    (CalibrationSpec, {"members": 0}, "members"),
    (SteeringSpec, {"steps": -1}, "steps"),
    (SteeringSpec, {"rate": 0.0}, "rate"),
    (SteeringSpec, {"above": 3.0, "below": 2.5}, "above < below"),
    (SteeringSpec, {"above": -0.1}, "above"),
    (SteeringSpec, {"neighbours": 0}, "neighbours"),
    (MethodSpec, {"level": 0}, "level"),
    (MethodSpec, {"steps": 0}, "steps"),
    (MethodSpec, {"passes": -1}, "passes"),
    (MethodSpec, {"cache_interval": 0}, "cache_interval"),
    (MethodSpec, {"grid": (5,)}, "two or more rising"),
    (MethodSpec, {"grid": (5, 5, 9)}, "two or more rising"),
    (MethodSpec, {"grid": (-1, 5)}, "two or more rising"),
    (MethodSpec, {"grid": (0, 5), "steps": 1}, "got steps as well"),
    (MethodSpec, {"grid": (0, 5), "level": 5, "floor": 0}, "got level, floor as well"),
    (MethodSpec, {"grid": (0, 5), "level": 9, "teleport": 6}, "end at 5 and a teleport from 6"),
    (MethodSpec, {"preset": "discovery", "calibration": CalibrationSpec()}, "discovery"),
    (MethodSpec, {"preset": "discovery", "steering": SteeringSpec()}, "discovery"),
    (GenerationSpec, {"samples": 0}, "samples"),
    (GenerationSpec, {"shard_size": 0}, "shard_size"),
    (GenerationSpec, {"seed": -1}, "seed"),
    (GenerationSpec, {"seed": 2**63}, "seed"),
    (GateSpec, {"min_held_out": 1}, "min_held_out"),
    (GateSpec, {"unsteered_p": 1.5}, "unsteered_p"),
    (PretrainSpec, {"name": "a", "widths": (8, 8)}, "attention"),
    (PretrainSpec, {"name": "a", "widths": (24, 64, 130, 128)}, "norm_groups"),
    (PretrainSpec, {"name": "a", "size": 36}, "multiple of 8"),
    (PretrainSpec, {"name": "a", "steps": 0}, "steps"),
    (PretrainSpec, {"name": "a", "batch": 0}, "batch"),
    (PretrainSpec, {"name": "a", "ema": 1.0}, "ema"),
    (PretrainSpec, {"name": "a", "rate": 0.0}, "rate"),
]


@pytest.mark.parametrize(("kind", "values", "named"), REFUSED)
def test_impossible_values_are_refused_by_name(
    kind: Callable[..., Any], values: dict[str, Any], named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        kind(**values)


@pytest.mark.parametrize(
    "spec",
    [
        TargetsSpec(path="a"),
        CalibrationSpec(),
        SteeringSpec(),
        MethodSpec(),
        GenerationSpec(),
        GateSpec(),
        PretrainSpec(name="a"),
    ],
)
def test_defaults_are_accepted_and_records_are_frozen(spec: Any) -> None:
    with pytest.raises(FrozenInstanceError):
        setattr(spec, fields(spec)[0].name, None)


@repeatable
@given(st.integers(2, 500), st.floats(0.05, 0.95))
def test_a_fraction_holds_out_its_share(maps: int, fraction: float) -> None:
    fit = TargetsSpec(path="a", held_out=fraction).fit_count(maps)
    assert abs((maps - fit) - maps * fraction) <= 0.5


@repeatable
@given(st.integers(1, 50), st.integers(51, 500))
def test_a_number_holds_out_that_many(held: int, maps: int) -> None:
    assert TargetsSpec(path="a", held_out=float(held)).fit_count(maps) == maps - held


def test_the_discovery_preset_has_the_published_settings() -> None:
    method = resolve_method(MethodSpec(preset="discovery"), auto_level=123)
    assert (method.level, method.steps, method.spacing, method.passes) == (900, 79, "uniform", 1)
    assert (method.solver, method.prior) == ("ddim", "isotropic")
    assert (method.calibration, method.steering) == (None, None)


def test_the_calibrated_preset_starts_from_the_given_level() -> None:
    method = resolve_method(MethodSpec(), auto_level=640)
    assert method.level == 640
    assert (method.spacing, method.prior) == ("log_snr", "spectral_low_rank")
    assert (method.calibration, method.steering) == (CalibrationSpec(), SteeringSpec())
    assert method.passes > 1


@pytest.mark.parametrize("preset", ["calibrated", "discovery"])
@pytest.mark.parametrize(
    "given_field",
    [{"level": 500}, {"steps": 7}, {"passes": 5}, {"solver": "heun"}, {"prior": "isotropic"}],
)
def test_a_given_field_replaces_that_of_the_preset_alone(
    preset: str, given_field: dict[str, Any]
) -> None:
    plain = resolve_method(MethodSpec(preset=preset), auto_level=700)
    changed = resolve_method(MethodSpec(preset=preset, **given_field), auto_level=700)
    for f in fields(plain):
        expected = given_field.get(f.name, getattr(plain, f.name))
        assert getattr(changed, f.name) == expected


def test_more_steps_than_indices_are_refused() -> None:
    assert resolve_method(MethodSpec(level=18, steps=18), auto_level=1).steps == 18
    with pytest.raises(ConfigError, match=r"19 steps from index 0 up to 18"):
        resolve_method(MethodSpec(level=18, steps=19), auto_level=1)


def test_steering_without_steps_is_no_steering() -> None:
    spec = MethodSpec(steering=SteeringSpec(steps=0))
    assert resolve_method(spec, auto_level=700).steering is None


@pytest.mark.parametrize("preset", ["calibrated", "discovery"])
def test_a_grid_says_level_floor_and_steps(preset: Any) -> None:
    method = resolve_method(MethodSpec(preset=preset, grid=(2, 50, 600)), 700, 3)
    assert (method.floor, method.level, method.steps, method.top) == (2, 600, 2, 600)
    jumped = MethodSpec(preset=preset, grid=(2, 50, 300), level=600, teleport=300)
    method = resolve_method(jumped, 700, 3)
    assert (method.level, method.top, method.steps) == (600, 300, 2)
