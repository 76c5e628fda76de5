"""Growing a run: the old samples stay to the bit, and the whole equals a run planned that long."""

import json

import numpy as np
import pytest
import xarray as xr

from flows.runs.lifecycle import extend_run, make_run, stored_settings, with_samples
from flows.runs.stages import perform
from ood_core.errors import IdentityRefused
from ood_core.models.networks import make_unet, save_base
from ood_core.store.files import read_json, write_json
from ood_core.store.run import RunStore
from tests.contracts.store import assert_equal, assert_honest, assert_kept, marks

PLANNED = 10  # in shards of 4: the last one shows 2 of its rows


def without_validation(name, stage, run, settings):
    return "" if name == "validate" else perform(name, stage, run, settings)


def extend(root, samples, call=without_validation):
    run = RunStore(root)
    return extend_run(run, with_samples(stored_settings(run), samples), call)


def shards(root):
    """Every file of rows with its time and bytes; metadata aside."""
    found = (p for p in root.glob("*.zarr/*/c/**/*") if p.is_file())
    return {str(p.relative_to(root)): (p.stat().st_mtime_ns, p.read_bytes()) for p in found}


def everything(root):
    return {str(p): (p.stat().st_mtime_ns, p.is_file() and p.read_bytes()) for p in root.rglob("*")}


@pytest.fixture(scope="session")
def longer(tmp_path_factory, tiny, unbroken):
    """A run planned with the given number of samples from the start."""
    made = {}

    def make(samples):
        if samples not in made:
            made[samples] = tmp_path_factory.mktemp("longer") / str(samples)
            settings = tiny(generation={"samples": samples})
            make_run(settings, str(made[samples]), call=without_validation)
        return made[samples]

    return make


@pytest.mark.parametrize(
    ("samples", "computed"), [(11, 0), (12, 0), (13, 1), (22, 3)], ids=lambda n: str(n)
)
def test_a_grown_run_equals_one_planned_that_long(finished, longer, samples, computed):
    receipts, stored = marks(finished), shards(finished)
    found = extend(finished, samples)
    assert_kept(receipts, finished)
    after = shards(finished)
    assert {name: after[name] for name in stored} == stored  # bytes and times of writing
    assert len(marks(finished)) == len(receipts) + computed
    assert (found["samples_done"], found["samples_planned"]) == (samples, samples)
    assert_honest(finished)
    assert_equal(finished, longer(samples))
    assert read_json(finished / "plan.json") == read_json(longer(samples) / "plan.json")
    with xr.open_zarr(finished / "dataset.zarr") as data:  # by the consolidated metadata
        np.testing.assert_array_equal(data.sample.values, np.arange(samples))
        assert np.isfinite(data.maps.values).all()


def test_growing_twice_is_growing_once(finished, longer):
    for samples in (13, 22):
        extend(finished, samples)
    assert_equal(finished, longer(22))


def test_an_unfinished_run_grows_as_well(ready, longer):
    before = marks(ready)
    extend(ready, 13)
    assert_kept(before, ready)
    assert_equal(ready, longer(13))


def test_scores_are_of_the_grown_set_and_of_the_same_gate(farfield, finished):
    decided = read_json(finished / "gate.json")
    never_met = {"min_held_out": 2, "spectrum_error": 0.0}
    write_json(finished / "gate.json", {**decided, "gate": {**decided["gate"], **never_met}})
    answer = farfield("extend", finished, "--samples", 13, "--json")
    assert answer.code == 3
    found = json.loads(answer.out)
    assert (found["state"], found["note"]) == ("quarantined", "grown from 10 to 13 samples")
    report = read_json(finished / "report" / "report.json")
    assert report["maps"]["samples"] == 13
    assert report["settings"]["generation"]["samples"] == 13
    assert read_json(finished / "gate.json")["samples"] == 13


def test_old_scores_say_nothing_about_a_grown_set(finished):
    """Even where growth needs no new shard."""
    assert RunStore(finished).state == "complete"
    extend(finished, 12)
    assert RunStore(finished).ledger("generate").missing(RunStore(finished).plan("generate")) == []
    assert RunStore(finished).state == "incomplete"


def test_as_many_as_there_are_is_nothing_to_do(farfield, finished):
    before = everything(finished)
    answer = farfield("extend", finished, "--samples", PLANNED, "--json")
    assert answer.code == 0
    assert "already" in json.loads(answer.out)["note"]
    assert everything(finished) == before


def test_a_run_never_shrinks(farfield, finished):
    before = everything(finished)
    answer = farfield("extend", finished, "--samples", PLANNED - 1)
    assert answer.code == 2
    assert "at least the 10" in answer.err
    assert farfield("extend", finished, "--samples", 0).code == 2
    assert farfield("extend", finished / "none", "--samples", 20).code == 2
    assert everything(finished) == before


@pytest.mark.parametrize("key", ["method.steps=3", "generation.seed=1", "targets.transform=asinh"])
def test_what_the_run_has_settled_cannot_be_set(farfield, finished, key):
    before = everything(finished)
    answer = farfield("extend", finished, "--samples", 20, "--set", key)
    assert (answer.code, key in answer.err) == (2, True)
    assert everything(finished) == before


def test_another_base_or_number_type_is_refused_before_anything_is_planned(
    farfield, finished, tmp_path
):
    import torch

    torch.manual_seed(1)
    save_base(make_unet(16, 1, (8, 16), 1, (False, False), 4), "epsilon", tmp_path / "other")
    before = everything(finished)
    for key in (f"base={tmp_path}/other", "execution.dtype=bfloat16"):
        assert farfield("extend", finished, "--samples", 20, "--set", key).code == 6
    assert farfield("extend", finished, "--samples", 20, "--set", "base=gone/away/x").code == 2
    assert everything(finished) == before


def test_a_grown_run_is_resumed_by_its_new_length_only(finished, tiny):
    extend(finished, 13)
    with pytest.raises(IdentityRefused, match=r"generate\.rows: 13 -> 10"):
        make_run(tiny(), str(finished), call=without_validation)
    before = everything(finished / "dataset.zarr")
    make_run(tiny(generation={"samples": 13}), str(finished), call=without_validation)
    assert everything(finished / "dataset.zarr") == before


def test_extending_needs_no_target_file(finished, longer, tiny, tmp_path):
    """Only the run's folder and the base: the original files may be gone."""
    record = read_json(finished / "run.json")
    record["settings"]["targets"]["path"] = str(tmp_path / "gone.npy")
    write_json(finished / "run.json", record)
    extend(finished, 13)
    assert_equal(finished, longer(13))


def test_the_rows_in_waiting_are_no_samples_yet(unbroken):
    """What a short last shard holds beyond the end has a receipt, and is seen by nobody."""
    run = RunStore(unbroken)
    receipt = run.ledger("generate").read(run.plan("generate")[2])
    assert (receipt.start, receipt.stop) == (8, 12)
    assert run.table("generate").read("sample").tolist() == list(range(PLANNED))
    with xr.open_zarr(unbroken / "dataset.zarr") as data:
        assert data.sizes["sample"] == PLANNED
