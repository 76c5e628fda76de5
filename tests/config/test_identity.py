"""Run identity: changes with every field that changes results, and with nothing else."""

import json
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.settings import parse
from ood_core.config.generation import GenerationSpec
from ood_core.config.identity import (
    SCHEME,
    difference,
    digest,
    identity_record,
    read_method,
    require_scheme,
)
from ood_core.config.method import (
    AUTO_MIN_NOISE,
    AUTO_NOISE,
    CalibrationSpec,
    DrawSpec,
    Method,
    SteeringSpec,
)
from ood_core.config.steer import SteerSpec, WishSpec
from ood_core.config.targets import TargetsSpec
from ood_core.errors import IdentityRefused
from ood_core.maps.mapset import MapSet
from ood_core.models.loading import weights_digest
from ood_core.numerics.random import generator, root_key
from ood_core.store.files import read_json
from tests.strategies import repeatable

TARGETS = TargetsSpec(path="maps.fits", transform="asinh", symmetries=("flip", "rotate90"))
METHOD = Method(
    t_max=700,
    t_min=0,
    steps=18,
    spacing="log_snr",
    fixed_point_iterations=3,
    solver="ddim",
    prior="spectral_low_rank",
    calibration=CalibrationSpec(
        draws=4,
        bands=8,
        ridge=1e-3,
        n_clusters=4,
        patches=0,
        prune_tolerance=0,
        min_variance=1e-3,
    ),
    steering=SteeringSpec(
        steps=12,
        rate=0.08,
        sigma_max=2.5,
        neighbours=5,
        radial_bins=0,
        low_k_weight=1,
    ),
    round_trip_limit=0.0,
    quantization=False,
    pyramid=2,
)
WISH = WishSpec(statistic="mean", value=1.0)
NAMES = {f.name for f in fields(METHOD)}
GENERATION = GenerationSpec(samples=1024, shard_size=64, seed=0)
GOLDEN = "24f095e296202f2049f79d34c5bbc9ba43159c323a77c3bedda317051324f090"


def known(spec: TargetsSpec, content: str, maps: int = 100) -> dict[str, Any]:
    """What an identity needs to know of targets, of which there are `maps`."""
    return {
        "digest": content,
        "transform": spec.transform + " per channel" * spec.per_channel,
        "symmetries": sorted(spec.symmetries),
        "fit_count": spec.fit_count(maps),
    }


def record(**changes: Any) -> dict[str, Any]:
    given = {
        "targets": TARGETS,
        "targets_digest": "t" * 64,
        "base_digest": "b" * 64,
        "method": METHOD,
        "generation": GENERATION,
    }
    given |= changes
    targets = known(given["targets"], given["targets_digest"])
    seed = given["generation"].seed
    return identity_record(targets, given["base_digest"], given["method"], seed)


OTHER: dict[str, Any] = {
    "t_max": 701,
    "t_min": 1,
    "steps": 17,
    "spacing": "uniform",
    "fixed_point_iterations": 2,
    "solver": "ancestral",
    "prior": "isotropic",
    "calibration": None,
    "steering": None,
    "draws": 5,
    "bands": 9,
    "ridge": 2e-3,
    "n_clusters": 3,
    "rate": 0.04,
    "sigma_max": 2.0,
    "neighbours": 4,
    "patches": 8,
    "prune_tolerance": 0.02,
    "min_variance": 2e-3,
    "radial_bins": 3,
    "low_k_weight": 2.0,
    "draw": DrawSpec(sampler="slerp", share=0.15),
    "teleport": 600,
    "round_trip_limit": 0.1,
    "quantization": True,
    "pyramid": 3,
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
            DrawSpec(sampler="slerp", share=0.2),
            DrawSpec(sampler="slerp", share="grid"),
            DrawSpec(sampler="norm", share=0.15),
            DrawSpec(sampler="combination", parents=3),
            DrawSpec(sampler="combination", parents=4),
            DrawSpec(sampler="prior", accept="latents"),
            DrawSpec(sampler="cluster"),
        )
    ]
    drawn += [
        replace(METHOD, solver="ancestral", steer=spec)
        for spec in (
            SteerSpec(wishes=(WISH,)),
            SteerSpec(wishes=(replace(WISH, value=2.0),)),
            SteerSpec(wishes=(replace(WISH, width=0.5),)),
            SteerSpec(wishes=(replace(WISH, statistic="peaks", above=1.0),)),
            SteerSpec(wishes=(replace(WISH, statistic="peaks", above=2.0),)),
            SteerSpec(wishes=(WISH,), calls=100),
            SteerSpec(reward="a:b", source="s" * 64),
            SteerSpec(reward="a:c", source="s" * 64),
            SteerSpec(reward="a:b", source="t" * 64),
            SteerSpec(reward="a:b", source="s" * 64, strength=1.0),
        )
    ]
    alone = [replace(METHOD, **{name: OTHER[name]}) for name in OTHER if name in NAMES]
    together = [
        replace(METHOD, eta=0.5),
        replace(METHOD, steps=2, timesteps=(0, 100, 700)),
        replace(METHOD, steps=2, timesteps=(0, 200, 700)),
    ]
    return alone + together + inner + drawn


CHANGES: list[dict[str, Any]] = [
    *({"method": method} for method in changed_methods()),
    {"targets_digest": "u" * 64},
    {"base_digest": "c" * 64},
    {"targets": replace(TARGETS, transform="log")},
    {"targets": replace(TARGETS, per_channel=True)},
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
    {"targets": replace(TARGETS, grow=True)},
    {"targets": replace(TARGETS, symmetries=("rotate90", "flip"))},
]


def test_the_digest_of_a_fixed_record_is_golden() -> None:
    """A changed value here renames every stored run: raise `SCHEME` and take the new digest."""
    assert SCHEME == 10
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
    lines = difference(record(), record(method=replace(METHOD, t_max=5, steering=None)))
    assert "method.t_max: 700 -> 5" in lines
    assert "method.steering: absent -> None" in lines
    assert "method.steering.rate: 0.08 -> absent" in lines
    names = [line.split(": ")[0] for line in lines]
    assert names == sorted(names)


class Fixed:
    """A noise schedule whose automatic ends are given."""

    def __init__(self, t_max: int, t_min: int) -> None:
        self._index = {AUTO_NOISE: t_max, AUTO_MIN_NOISE: t_min}

    def index_of(self, noise_to_signal: float) -> int:
        return self._index[noise_to_signal]


GOLDENS = Path(__file__).parents[1] / "golden"


@pytest.mark.parametrize("path", sorted(GOLDENS.glob("identity-*.json")), ids=lambda p: p.stem)
def test_golden_configurations_keep_their_identity(path: Path) -> None:
    """One that fails orphans stored runs: see `tests/golden/README.md` before changing it."""
    golden = read_json(path)
    settings = parse(golden["configuration"])
    method = settings.method.resolve(Fixed(golden["t_max"], golden["t_min"]))
    method = replace(method, pyramid=1)  # as of maps that are not large
    targets = known(settings.targets, golden["targets_digest"])
    found = identity_record(targets, golden["base_digest"], method, settings.generation.seed)
    assert difference(golden["record"], found) == []
    assert found == golden["record"]
    assert digest(found) == golden["digest"]
    assert read_method(golden["record"]) == method


def test_golden_contents_keep_their_digests_and_their_numbers(tmp_path: Path) -> None:
    golden = read_json(GOLDENS / "contents.json")
    values: Any = np.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4)
    maps = MapSet(values, ("a:0", "a:1"), "K", "OBJECT  = 'RAMP'", "anywhere")
    assert maps.digest() == golden["targets"]
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(range(256)))
    assert weights_digest(weights, "v_prediction", "rising") == golden["base"]
    root = root_key("farfield")
    assert root == golden["root"]
    drawn = generator(root, 17, 2).standard_normal(3, dtype=np.float32)
    assert drawn.tolist() == golden["first"]


def test_every_setting_is_in_the_identity_or_said_not_to_be() -> None:
    """A new field fails here until it is in the record or in this list; then raise `SCHEME`."""
    found = record()
    left_out = {"path", "array", "axes", "missing", "tiles", "cutouts", "samples", "shard_size"}
    left_out |= {"max_bytes", "max_maps", "max_header_bytes", "grow"}
    left_out |= {"duplicates"}  # what is left out is not in the digest
    left_out |= {"per_channel"}  # said by the transform
    for section, spec in (("targets", TargetsSpec), ("generation", GenerationSpec)):
        known = {f.name for f in fields(spec)} - left_out
        assert {"fit_count" if f == "held_out" else f for f in known} == (
            found[section].keys() - {"digest"}
        )
    told = {name: value for name, value in asdict(METHOD).items() if name != "steer"}
    assert found["method"] == json.loads(json.dumps(told))
    assert "pyramid" not in record(method=replace(METHOD, pyramid=1))["method"]
    steer = SteerSpec(wishes=(WISH,))
    steered = record(method=replace(METHOD, solver="ancestral", steer=steer))
    assert steered["method"]["steer"] == json.loads(json.dumps(asdict(steer)))


@pytest.mark.parametrize("method", changed_methods(), ids=str)
def test_a_method_is_read_back_from_its_record(method: Method) -> None:
    assert read_method(json.loads(json.dumps(record(method=method)))) == method


@pytest.mark.parametrize("place", ["method", "method.calibration"])
def test_a_record_with_other_fields_is_refused_by_their_names(place: str) -> None:
    found = record()
    section = found["method"] if place == "method" else found["method"]["calibration"]
    lost = sorted(section)[0]
    del section[lost]
    with pytest.raises(IdentityRefused, match=f"{place} differs .* in {lost};"):
        read_method(found)
    section |= {lost: record()["method"].get(lost), "momentum": 0.9}
    with pytest.raises(IdentityRefused, match=f"{place} differs .* in momentum;"):
        read_method(found)


def test_a_run_of_the_first_scheme_is_refused_in_one_sentence() -> None:
    with pytest.raises(
        IdentityRefused, match=r"^runs/a holds a run of identity scheme 1; .*"
    ) as told:
        require_scheme({**record(), "scheme": 1}, "runs/a")
    assert "\n" not in str(told.value)
