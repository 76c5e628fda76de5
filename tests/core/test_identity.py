"""Run identity: changes with every field that changes results, and with nothing else."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from actors.loading import read_method
from flows.settings import parse
from ood_core import identity
from ood_core.diffusion.schedule import NoiseSchedule
from ood_core.draw_spec import DrawSpec
from ood_core.errors import IdentityRefused
from ood_core.identity import SCHEME, complete, difference, digest, identity_record
from ood_core.maps.mapset import MapSet
from ood_core.method import Method, resolve_method
from ood_core.models.loading import weights_digest
from ood_core.numerics.random import generator, root_key
from ood_core.specs import CalibrationSpec, GenerationSpec, MethodSpec, SteeringSpec, TargetsSpec
from ood_core.store.files import read_json
from tests.strategies import repeatable

TARGETS = TargetsSpec(path="maps.fits", transform="asinh", symmetries=("flip", "rotate90"))
METHOD = Method(
    level=700,
    floor=0,
    steps=18,
    spacing="log_snr",
    passes=3,
    solver="ddim",
    prior="spectral_low_rank",
    calibration=CalibrationSpec(
        draws=4,
        bands=8,
        ridge=1e-3,
        members=4,
        patches=0,
        tolerance=0,
        least_variance=1e-3,
        thinned=False,
    ),
    steering=SteeringSpec(
        steps=12,
        rate=0.08,
        above=0.0,
        below=2.5,
        neighbours=5,
        coordinates="pixels",
        rings=0,
        start=0,
        thinned=False,
        large_waves=1,
    ),
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
    "floor": 1,
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
    "patches": 8,
    "tolerance": 0.02,
    "least_variance": 2e-3,
    "thinned": True,
    "coordinates": "posterior",
    "rings": 3,
    "start": 0.25,
    "large_waves": 2.0,
    "draw": DrawSpec(construct="slerp", share=0.15),
    "eta_floor": 300,
    "extra_passes": 1,
    "inverter": "bdia",
    "eta": 0.5,
    "teleport": 600,
    "round_trip_limit": 0.1,
    "grid": (0, 100, 700),
    "cache_interval": 2,
    "floor_noise": True,
    "coarsening": True,
}


def changed_methods() -> list[Method]:
    inner = [
        replace(METHOD, **{part: replace(spec, **{f.name: OTHER[f.name]})})
        for part, spec in (("calibration", METHOD.calibration), ("steering", METHOD.steering))
        if spec is not None
        for f in fields(spec)
    ]
    drawn = [
        replace(METHOD, draw=spec)
        for spec in (
            DrawSpec(construct="slerp", share=0.2),
            DrawSpec(construct="slerp", share="grid"),
            DrawSpec(construct="norm", share=0.15),
            DrawSpec(construct="combination", parents=3),
            DrawSpec(construct="combination", parents=4),
            DrawSpec(construct="prior", accept="latents"),
            DrawSpec(construct="cluster"),
        )
    ]
    return [replace(METHOD, **{f.name: OTHER[f.name]}) for f in fields(METHOD)] + inner + drawn


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
    {"targets": replace(TARGETS, max_maps=1, max_header_bytes=1)},
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


GOLDENS = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("identity-*.json")), ids=lambda p: p.stem)
def test_golden_configurations_keep_their_identity(path: Path) -> None:
    """One that fails orphans stored runs: see `tests/golden/README.md` before changing it."""
    golden = read_json(path)
    settings = parse(golden["configuration"])
    method = resolve_method(settings.method, golden["auto_level"])
    found = identity_record(
        settings.targets,
        golden["targets_digest"],
        golden["base_digest"],
        method,
        settings.generation,
    )
    assert difference(golden["record"], found) == []
    assert found == golden["record"]
    assert digest(found) == golden["digest"]
    assert read_method(golden["record"]["method"]) == method


def test_golden_contents_keep_their_digests_and_their_numbers(tmp_path: Path) -> None:
    golden = read_json(GOLDENS / "contents.json")
    values: Any = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    maps = MapSet(values, ("a:0", "a:1"), "K", "OBJECT  = 'RAMP'", "anywhere")
    assert maps.digest() == golden["targets"]
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(range(256)))
    alpha, sigma = (
        torch.tensor(v, dtype=torch.float64) for v in ([1, 0.75, 0.5], [0.25, 0.5, 0.75])
    )
    assert weights_digest(weights, "v_prediction", NoiseSchedule(alpha, sigma)) == golden["base"]
    root = root_key("farfield")
    assert root == golden["root"]
    drawn = generator(root, 17, 2).standard_normal(3, dtype=np.float32)
    assert drawn.tolist() == golden["first"]


def test_every_setting_is_in_the_identity_or_said_not_to_be() -> None:
    """A new field fails here until it is in the record (and in `LATER`) or in this list."""
    found = identity_record(TARGETS, "t", "b", METHOD, GENERATION)
    left_out = {"path", "array", "samples", "shard_size", "preset"}
    left_out |= {"max_bytes", "max_maps", "max_header_bytes"}
    for section, spec in (("targets", TargetsSpec), ("generation", GenerationSpec)):
        assert {f.name for f in fields(spec)} - left_out == found[section].keys() - {"digest"}
    later = {place.removeprefix("method.") for place in identity.LATER}
    assert {f.name for f in fields(Method)} - later == found["method"].keys() - later
    assert {f.name for f in fields(MethodSpec)} - left_out <= {f.name for f in fields(Method)}


@pytest.fixture
def as_if_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """`neighbours` and `prior` play fields that came after the scheme, with these old meanings."""
    later = {"method.steering.neighbours": 5, "method.prior": "spectral_low_rank"}
    monkeypatch.setattr(identity, "LATER", identity.LATER | later)


@pytest.mark.usefixtures("as_if_later")
class TestLaterFields:
    def test_an_old_meaning_is_left_out_and_read_back(self) -> None:
        found = record()
        assert "neighbours" not in found["method"]["steering"]
        assert "prior" not in found["method"]
        assert digest(found) != GOLDEN  # as it was before the fields
        assert read_method(found["method"]) == METHOD
        assert complete(found)["method"] == asdict(METHOD)

    def test_any_other_value_is_recorded(self) -> None:
        other = replace(METHOD, prior="isotropic")
        found = record(method=other)
        assert found["method"]["prior"] == "isotropic"
        assert digest(found) != digest(record())
        assert read_method(found["method"]) == other
        assert difference(record(), found) == ["method.prior: spectral_low_rank -> isotropic"]

    def test_a_part_that_is_not_used_stays_so(self) -> None:
        plain = replace(METHOD, steering=None)
        found = record(method=plain)
        assert found["method"]["steering"] is None
        assert read_method(found["method"]) == plain

    def test_the_default_of_today_does_not_matter(self) -> None:
        """The record is read with the old meaning, whatever the spec's default has become."""
        old = record(method=replace(METHOD, steering=replace(METHOD.steering, neighbours=5)))
        assert SteeringSpec().neighbours == 5
        identity.LATER["method.steering.neighbours"] = 7  # as if 7 was what old runs did
        assert read_method(old["method"]).steering.neighbours == 7


def test_a_method_from_a_newer_version_is_refused_by_its_field() -> None:
    newer = {**record()["method"], "momentum": 0.9}
    with pytest.raises(IdentityRefused, match="momentum"):
        read_method(newer)
