"""A run of coarse maps first: the same maps as in memory, whatever was lost on the way."""

import os
import shutil

import numpy as np
import pytest

import ood_core as ff
from flows.handle import run
from flows.runs.cost import estimate_cost, evaluations
from flows.runs.planning import plan_run
from flows.settings import parse
from flows.tools.replay import replay_sample
from ood_core.store.run import RunStore
from tests.fields import smooth_fields

RAY = {"pool": "ray", "workers": 2, "orchestrator": "none"}


@pytest.fixture(scope="module")
def content(tiny_dict, tmp_path_factory):
    wide = np.kron(smooth_fields(14), np.ones((2, 2), np.float32))
    path = tmp_path_factory.mktemp("targets") / "wide.npy"
    np.save(path, wide * (1 + 0.01 * smooth_fields(14 * 4).reshape(wide.shape)))
    return tiny_dict(targets={"path": str(path)}, method={"pyramid": 2})


@pytest.fixture(scope="module")
def done(tmp_path_factory, content):
    return run(content, tmp_path_factory.mktemp("pyramid") / "run", progress=False)


def stored(place):
    return RunStore.open(str(place)).table("generate").read("maps")


def test_stored_maps_are_those_in_memory(done, content):
    settings = parse(content)
    targets = ff.TargetSet.of(settings.targets)
    synth = ff.Synthesizer(ff.load_model(settings.base), settings.method, batch=4)
    maps = synth.fit(targets, progress=False).sample(10, progress=False)
    assert synth.identity == done.status()["identity"]
    below = RunStore.open(str(done.path)).coarse
    assert synth._fit.coarse.record == below.record["identity_record"]
    assert np.array_equal(stored(done.path), maps)


def test_a_sample_is_made_again(done, content):
    store = RunStore.open(str(done.path))
    assert replay_sample(store, parse(content), 5, False, None)["outcome"] == "equal"


@pytest.mark.parametrize("stage", ["calibrate", "invert", "generate"])
def test_what_is_lost_is_made_again(done, content, tmp_path, stage):
    """Receipts of one stage, of the coarse level where it has some, and what came after."""
    place = tmp_path / "run"
    shutil.copytree(done.path, place)
    below = RunStore.open(str(place)).coarse.root
    if stage == "generate":
        shutil.rmtree(place / "receipts" / stage)
    else:
        shutil.rmtree(below / "receipts" / stage)
        shutil.rmtree(place / "receipts" / "calibrate")
        shutil.rmtree(place / "receipts" / "generate")
        (below / "prior.zarr.zip").unlink()
    assert RunStore.open(str(place)).state == "incomplete"
    again = run(content, place, progress=False)
    assert again.status()["state"] == done.status()["state"]
    assert np.array_equal(stored(place), stored(done.path))


def test_the_part_has_no_lease_card_or_samples_of_its_own(done):
    below = RunStore.open(str(done.path)).coarse
    assert below.lease == RunStore.open(str(done.path)).lease
    there = {path.name for path in below.root.iterdir()}
    assert {"run.json", "calibration.zarr", "latents.zarr", "prior.zarr.zip"} <= there
    assert not there & {"lease", "README.md", "dataset.zarr", "statistics.zarr", "gate.json"}


def test_the_plan_counts_both_levels(done, content):
    store, plan = RunStore.open(str(done.path)), plan_run(parse(content), str(done.path))
    receipts = store.ledger("generate").all(store.plan("generate"))
    counted = sum(receipt.nfe for receipt in receipts)
    assert counted == evaluations(plan.settings, plan.method, plan.targets.fit_count)["generate"]
    assert counted == 12 * 2 * 3  # samples as computed, levels, indices
    assert estimate_cost(parse(content))["network_evaluations_per_map"] == 6


def test_actors_make_the_same_bytes(done, content, tmp_path):
    """They hire workers for the coarse stages by the place of the whole run."""
    again = run({**content, "execution": RAY}, tmp_path / "run", progress=False)
    assert np.array_equal(stored(again.path), stored(done.path))
    below = RunStore.open(str(again.path)).coarse
    writers = {receipt.writer for receipt in below.ledger("calibrate").all(below.plan("calibrate"))}
    assert not any(writer.endswith(f":{os.getpid()}") for writer in writers)
