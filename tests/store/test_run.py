"""A run on disk: identity, plan, states."""

import shutil

import pytest
import torch

from flows.runs.lease_guard import hold_lease
from flows.runs.stages import STAGES, perform, summary
from ood_core.config.identity import SCHEME
from ood_core.denoising.calibrated import EXPERTS, by_name
from ood_core.errors import IdentityRefused, InputError
from ood_core.store.files import read_json, write_json
from ood_core.store.run import RunStore
from tests.runs import prepare


def test_the_place_decides_nothing(tmp_path, tiny, unbroken):
    run = prepare(tiny(name="another name", execution={"workers": 3}), str(tmp_path / "elsewhere"))
    assert run.record["identity"] == RunStore(unbroken).record["identity"]


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ({"generation": {"seed": 5}}, "generation.seed: 0 -> 5"),
        ({"method": {"steps": 3}}, "method.steps: 2 -> 3"),
        ({"method": {"solver": "ddim"}}, "method.solver: ancestral -> ddim"),
        ({"targets": {"transform": "asinh"}}, "targets.transform: linear -> asinh"),
        ({"method": {"calibration": {"draws": 2, "bands": 3, "n_clusters": 2, "patches": 2,
                                     "prune_tolerance": 0}}},
         "method.calibration.draws: 1 -> 2"),
    ],
)  # fmt: skip
def test_another_identity_is_refused_with_the_fields_that_differ(finished, tiny, section, line):
    before = sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*"))
    with pytest.raises(IdentityRefused) as refusal:
        prepare(tiny(**section), str(finished))
    assert [text.strip() for text in str(refusal.value).splitlines()[1:-1]] == [line]
    assert "--out" in str(refusal.value)
    assert sorted((p, p.stat().st_mtime_ns) for p in finished.rglob("*")) == before


@pytest.mark.parametrize("scheme", [SCHEME + 1, 1, None])
def test_a_run_of_another_scheme_is_refused(finished, tiny, farfield, scheme):
    changed = read_json(finished / "run.json")
    changed["identity_record"]["scheme"] = scheme
    write_json(finished / "run.json", changed)
    with pytest.raises(IdentityRefused, match=f"scheme {scheme}; .* reads scheme {SCHEME}"):
        prepare(tiny(), str(finished))
    with pytest.raises(IdentityRefused, match="use the version"):
        RunStore.open(str(finished))
    for verb in (("status",), ("extend", "--samples", 20), ("replay", "--sample", 0)):
        assert farfield(verb[0], finished, *verb[1:]).code == 6


def test_other_targets_are_refused(finished, tiny, targets_file, tmp_path):
    other = tmp_path / "fields.npy"
    content = bytearray(targets_file.read_bytes())
    content[-1] ^= 1
    other.write_bytes(content)
    with pytest.raises(IdentityRefused, match=r"targets\.digest"):
        prepare(tiny(targets={"path": str(other)}), str(finished))


def test_another_plan_is_refused(finished, tiny):
    with pytest.raises(IdentityRefused, match=r"generate\.rows: 10 -> 12"):
        prepare(tiny(generation={"samples": 12}), str(finished))
    with pytest.raises(IdentityRefused, match=r"generate\.shard_rows: 4 -> 5"):
        prepare(tiny(generation={"shard_size": 5}), str(finished))


def test_the_same_run_is_taken_up_wherever_it_was_moved(finished, tiny, tmp_path, targets_file):
    moved = tmp_path / "moved" / targets_file.name
    moved.parent.mkdir()
    shutil.copy(targets_file, moved)
    assert prepare(tiny(targets={"path": str(moved)}), str(finished)).root == finished


def test_states_follow_the_store(tmp_path, tiny):
    settings, out = tiny(), tmp_path / "run"
    run = prepare(settings, str(out))
    assert run.state == "planned"
    seen = []
    for name, stage in STAGES[:-1]:
        with hold_lease(run):
            assert run.state == "running"
            perform(name, stage, run, settings)
            assert run.state == "running"
        seen.append(run.state)
    assert seen == ["incomplete"] * 4
    assert summary(run)["stages_missing"] == {"calibrate": 0, "invert": 0, "generate": 0}
    for outcome in ("complete", "published", "quarantined", "undecided"):
        write_json(out / "gate.json", {"outcome": outcome, "reasons": [], "samples": 10})
        assert run.state == outcome
    run.ledger("generate").revoke(run.plan("generate")[1])
    assert run.state == "incomplete"
    assert summary(run)["shards_missing"] == [1]


def test_no_run_is_an_input_error_with_a_remedy(tmp_path):
    with pytest.raises(InputError, match="farfield run"):
        RunStore.open(str(tmp_path / "nothing"))


def test_file_uris_are_local_folders(tmp_path):
    assert RunStore.at(f"file://{tmp_path}/run").root == tmp_path / "run"


def test_a_place_whose_run_was_removed_keeps_nothing_fitted(finished, unbroken, tiny):
    """Without `run.json` there is no run; what was fitted belonged to the one that was there."""
    other = tiny(generation={"seed": 5})
    (finished / "run.json").unlink()
    left = {"prior.zarr.zip", "patches.zarr.zip", "gate.json"}
    assert left <= {path.name for path in unbroken.iterdir()}
    prepare(other, str(finished))
    assert not left & {path.name for path in finished.iterdir()}
    assert not list(finished.glob("receipts/*/*"))


def test_a_plan_from_before_a_stage_has_no_shards_of_it(finished):
    plan = read_json(finished / "plan.json")
    del plan["calibrate"]
    write_json(finished / "plan.json", plan)
    run = RunStore(finished)
    assert len(run.plan("calibrate")) == 0
    assert run.state in ("complete", "published", "quarantined", "undecided")


def test_weights_are_read_by_name_and_not_by_position():
    """Another order of the stored columns, or a fixed expert less, moves no weight to another."""
    patches = "patches 4x4, scale 1"
    names = [*EXPERTS, patches]
    weights = torch.arange(30.0).reshape(2, 3, 5)
    assert by_name(weights, names, "run").equal(weights)
    turned = [4, 2, 0, 3, 1]
    shuffled = by_name(weights[..., turned], [names[i] for i in turned], "run")
    assert shuffled.equal(weights)
    fewer = by_name(weights[..., [0, 1, 2, 4]], [*list(EXPERTS)[:3], patches], "run")
    assert fewer[..., 4].equal(weights[..., 4]) and not fewer[..., 3].any()
    with pytest.raises(IdentityRefused, match="oracle"):
        by_name(weights[..., :1], ["oracle"], "run")
