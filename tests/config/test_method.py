"""Records of settings: impossible values are refused where they are built."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ood_core.config.gate import GateSpec
from ood_core.config.generation import GenerationSpec
from ood_core.config.method import (
    PRESETS,
    CalibrationSpec,
    DrawSpec,
    Method,
    SteeringSpec,
    of_preset,
)
from ood_core.config.pretraining import PretrainSpec
from ood_core.config.targets import TargetsSpec
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.errors import ConfigError
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
    (CalibrationSpec, {"n_clusters": 0}, "n_clusters"),
    (SteeringSpec, {"steps": -1}, "steps"),
    (SteeringSpec, {"rate": 0.0}, "rate"),
    (SteeringSpec, {"sigma_max": 0.0}, "sigma_max"),
    (SteeringSpec, {"neighbours": 0}, "neighbours"),
    (Method, {"t_max": 0}, "t_max"),
    (Method, {"steps": 0}, "steps"),
    (Method, {"fixed_point_iterations": -1}, "fixed_point_iterations"),
    (Method, {"eta": 0.5}, "only ddim"),
    (Method, {"timesteps": (5,)}, "two or more rising"),
    (Method, {"timesteps": (5, 5, 9)}, "two or more rising"),
    (Method, {"timesteps": (-1, 5)}, "two or more rising"),
    (Method, {"timesteps": (0, 5), "steps": 2}, "got steps 2 as well"),
    (Method, {"timesteps": (0, 5), "t_max": 6}, "got t_max 6 as well"),
    (Method, {"timesteps": (0, 5), "t_min": 1}, "got t_min 1 as well"),
    (Method, {"timesteps": (0, 5), "t_max": "auto"}, "got t_max auto as well"),
    (Method, {"timesteps": (0, 5), "t_max": 9, "teleport": 6}, "end at 5 and a teleport from 6"),
    (Method.of, {"preset": "discovery", "calibration": CalibrationSpec()}, "discovery"),
    (Method.of, {"preset": "discovery", "steering": SteeringSpec()}, "discovery"),
    (Method.of, {"preset": "discovered"}, "expected one of calibrated, discovery, cluster"),
    (Method.of, {"preset": "calibrated", "timesteps": (0, 5), "steps": 12}, "got steps 12 as well"),
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
        Method(),
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


SCHEDULE = NoiseSchedule.linear()


def test_the_discovery_preset_has_the_published_settings() -> None:
    method = Method.of("discovery").resolve(SCHEDULE)
    assert (method.ends, method.steps, method.spacing) == ((0, 900), 79, "uniform")
    assert (method.fixed_point_iterations, method.solver, method.prior) == (1, "ddim", "isotropic")
    assert (method.calibration, method.steering, method.draw) == (None, None, None)
    assert Method.of("cluster") == replace(Method.of("discovery"), draw=DrawSpec(sampler="cluster"))


def test_the_default_takes_its_ends_from_the_schedule_of_the_base() -> None:
    asked = Method()
    assert (asked.t_max, asked.t_min) == (None, None)
    with pytest.raises(ValueError, match="call resolve first"):
        _ = asked.ends
    method = asked.resolve(SCHEDULE)
    assert method == replace(asked, t_max=SCHEDULE.index_of(12.0), t_min=SCHEDULE.index_of(0.02))
    assert method.resolve(SCHEDULE) == method
    few = Method(t_max=20, steps=18).resolve(SCHEDULE)
    assert few.ends == (2, 20)  # as high as so many steps leave room for


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(
    "given_field",
    [
        {"t_max": 500},
        {"steps": 7},
        {"fixed_point_iterations": 5},
        {"solver": "ddim"},
        {"prior": "isotropic"},
    ],
)
def test_a_given_field_replaces_that_of_the_preset_alone(
    preset: Any, given_field: dict[str, Any]
) -> None:
    assert Method.of(preset, **given_field) == replace(Method.of(preset), **given_field)


def test_a_key_without_a_value_is_left_out_unless_it_can_have_none() -> None:
    assert Method(**of_preset({"steps": None, "t_max": None, "prior": None})) == Method()
    assert Method(**of_preset({"calibration": None})).calibration is None


def test_more_steps_than_indices_are_refused() -> None:
    assert Method(t_max=18, t_min=0, steps=18).resolve(SCHEDULE).steps == 18
    with pytest.raises(ConfigError, match=r"19 steps from index 0 up to 18"):
        Method(t_max=18, t_min=0, steps=19).resolve(SCHEDULE)


def test_steering_without_steps_is_no_steering_and_a_plain_draw_no_draw() -> None:
    asked = Method(steering=SteeringSpec(steps=0), draw=DrawSpec())
    found = asked.resolve(SCHEDULE)
    assert (found.steering, found.draw) == (None, None)


@pytest.mark.parametrize("preset", PRESETS)
def test_timesteps_say_their_ends_and_their_number(preset: Any) -> None:
    method = Method.of(preset, timesteps=(2, 50, 600)).resolve(SCHEDULE)
    assert (method.ends, method.steps, method.top) == ((2, 600), 2, 600)
    assert replace(method, timesteps=None, steps=5).ends == (2, 600)
    method = Method.of(preset, timesteps=(2, 50, 300), t_max=600, teleport=300).resolve(SCHEDULE)
    assert (method.ends, method.top, method.steps) == ((2, 600), 300, 2)


def test_an_automatic_end_must_be_measured_first() -> None:
    with pytest.raises(ValueError, match="measured"):
        Method(t_max="auto").resolve(SCHEDULE)
