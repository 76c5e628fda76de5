"""Run identity: changes with every field that changes results, and with nothing else."""

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ood_core.identity import SCHEME, difference, digest, identity_record
from ood_core.specs import (
    CalibrationSpec,
    GenerationSpec,
    Method,
    SteeringSpec,
    TargetsSpec,
)
from tests.strategies import repeatable

TARGETS = TargetsSpec(path="maps.fits", transform="asinh", symmetries=("flip", "rotate90"))
METHOD = Method(
    level=700,
    steps=18,
    spacing="log_snr",
    passes=3,
    solver="ddim",
    prior="spectral_low_rank",
    calibration=CalibrationSpec(draws=4, bands=8, ridge=1e-3, members=4),
    steering=SteeringSpec(steps=12, rate=0.08, above=0.0, below=2.5, neighbours=5),
)
GENERATION = GenerationSpec(samples=1024, shard_size=64, seed=0)
GOLDEN = "acbe9ae110c3ee848e1ba42290a4eb1b9da71364a415e28946cc15e847aa0b5a"


def record(**changes: Any) -> dict[str, Any]:
    given = {
        "targets": TARGETS,
        "targets_digest": "t" * 64,
        "base_digest": "b" * 64,
        "method": METHOD,
        "generation": GENERATION,
    }
    return identity_record(**(given | changes))


OTHER: dict[str, Any] = {
    "level": 701,
    "steps": 17,
    "spacing": "uniform",
    "passes": 2,
    "solver": "heun",
    "prior": "isotropic",
    "calibration": None,
    "steering": None,
    "draws": 5,
    "bands": 9,
    "ridge": 2e-3,
    "members": 3,
    "rate": 0.04,
    "above": 0.1,
    "below": 2.0,
    "neighbours": 4,
}


def changed_methods() -> list[Method]:
    inner = [
        replace(METHOD, **{part: replace(spec, **{f.name: OTHER[f.name]})})
        for part, spec in (("calibration", METHOD.calibration), ("steering", METHOD.steering))
        if spec is not None
        for f in fields(spec)
    ]
    return [replace(METHOD, **{f.name: OTHER[f.name]}) for f in fields(METHOD)] + inner


CHANGES: list[dict[str, Any]] = [
    *({"method": method} for method in changed_methods()),
    {"targets_digest": "u" * 64},
    {"base_digest": "c" * 64},
    {"targets": replace(TARGETS, transform="log")},
    {"targets": replace(TARGETS, symmetries=("flip",))},
    {"targets": replace(TARGETS, held_out=0.4)},
    {"generation": replace(GENERATION, seed=1)},
]

SAME: list[dict[str, Any]] = [
    {"generation": replace(GENERATION, samples=4096)},
    {"generation": replace(GENERATION, shard_size=8)},
    {"targets": replace(TARGETS, path="elsewhere.npy")},
    {"targets": replace(TARGETS, array="maps")},
    {"targets": replace(TARGETS, max_bytes=1)},
    {"targets": replace(TARGETS, symmetries=("rotate90", "flip"))},
]


def test_the_digest_of_a_fixed_record_is_golden() -> None:
    """A changed value here renames every stored run: raise `SCHEME` and take the new digest."""
    assert SCHEME == 1
    assert digest(record()) == GOLDEN


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_every_field_that_changes_results_changes_the_digest(change: dict[str, Any]) -> None:
    assert digest(record(**change)) != digest(record())
    assert difference(record(), record(**change))


def test_no_two_of_these_changes_meet() -> None:
    assert len({digest(record(**change)) for change in CHANGES}) == len(CHANGES)


@pytest.mark.parametrize("change", SAME, ids=str)
def test_place_and_amount_are_not_part_of_it(change: dict[str, Any]) -> None:
    assert digest(record(**change)) == digest(record())
    assert difference(record(), record(**change)) == []


def test_the_record_is_plain_json() -> None:
    assert json.loads(json.dumps(record())) == record()


def flipped(value: Any) -> Any:
    """The same record with all keys in reverse order."""
    if isinstance(value, dict):
        return {key: flipped(value[key]) for key in reversed(value)}
    return value


def test_the_order_of_keys_does_not_matter() -> None:
    assert digest(flipped(record())) == digest(record())


leaves = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
)
records = st.recursive(
    leaves, lambda inner: st.dictionaries(st.text(max_size=5), inner, max_size=4), max_leaves=12
).filter(lambda value: isinstance(value, dict))


@repeatable
@given(records.filter(lambda r: "Infinity" not in json.dumps(r)))
def test_digests_agree_under_any_key_order(given_record: dict[str, Any]) -> None:
    assert digest(flipped(given_record)) == digest(given_record)


def test_numbers_that_json_has_not_are_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"a": float("nan")})


def test_difference_names_field_old_and_new() -> None:
    lines = difference(record(), record(method=replace(METHOD, level=5, steering=None)))
    assert "method.level: 700 -> 5" in lines
    assert "method.steering: absent -> None" in lines
    assert "method.steering.rate: 0.08 -> absent" in lines
    names = [line.split(": ")[0] for line in lines]
    assert names == sorted(names)
