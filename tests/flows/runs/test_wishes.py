"""A run with wishes: the same maps from any shards, in memory and again, planned, and reported."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import yaml

import ood_core as ff
from flows.handle import run
from flows.runs.cost import evaluations
from flows.runs.planning import plan_run
from flows.runs.stages import rewrite_report
from flows.settings import load_settings, parse
from flows.tools.replay import replay_sample
from ood_core.errors import IdentityRefused
from ood_core.store.files import read_json
from ood_core.store.run import RunStore

WISHES = [
    {"statistic": "mean", "value": 0.5},
    {"statistic": "spectrum_slope", "value": -3.0, "width": 0.3},
]


@pytest.fixture(scope="module")
def content(tiny_dict):
    method = {"steer": {"wishes": WISHES, "calls": 7}, "steering": {"steps": 1, "neighbours": 2}}
    return tiny_dict(method=method)


@pytest.fixture(scope="module")
def steered(tmp_path_factory, content):
    out = tmp_path_factory.mktemp("wishes") / "run"
    return run(content, out, progress=False)


def test_stored_maps_are_those_in_memory_and_of_any_order_of_shards(steered, content, tmp_path):
    settings = parse(content)
    targets = ff.TargetSet.of(settings.targets)
    synth = ff.Synthesizer(ff.load_model(settings.base), settings.method, batch=4)
    maps = synth.fit(targets, progress=False).sample(10, progress=False)
    assert synth.identity == steered.status()["identity"]
    assert np.array_equal(maps, steered.maps()) or steered.status()["left_out"]
    store = RunStore.open(str(steered.path))
    assert np.array_equal(store.table("generate").read("maps"), maps)
    for receipt in (steered.path / "receipts" / "generate").glob("*.json"):
        receipt.unlink()  # as if these shards had never been made
    again = run(content, steered.path, progress=False)
    stored = RunStore.open(str(again.path)).table("generate").read("maps")
    assert np.array_equal(stored, maps)


def test_a_sample_is_made_again(steered, content):
    store = RunStore.open(str(steered.path))
    assert replay_sample(store, parse(content), 5, False, None)["outcome"] == "equal"


def test_the_plan_counts_what_it_costs(steered, content):
    """Two whole ways of three evaluations for each of three shards of four."""
    store, plan = RunStore.open(str(steered.path)), plan_run(parse(content), str(steered.path))
    assert plan.method.candidates == 2
    receipts = store.ledger("generate").all(store.plan("generate"))
    counted = sum(receipt.nfe for receipt in receipts)
    assert counted == evaluations(plan.settings, plan.method, plan.targets.fit_count)["generate"]
    assert counted == 12 * 2 * 3


def test_what_became_of_wishes_is_in_summary_report_and_card(steered, content):
    found = steered.status()["wishes"]
    assert [one["statistic"] for one in found["reached"]] == ["mean", "spectrum_slope"]
    assert found["evaluations"] == 2 * found["unsteered_evaluations"] == 6
    report = steered.path / "report"
    assert read_json(report / "report.json")["wishes"] == found
    page = (report / "index.html").read_text()
    assert "What was wished for" in page and "meant to differ from held-out maps" in page
    assert "chosen to meet wishes" in (steered.path / "README.md").read_text()
    rewrite_report(RunStore.open(str(steered.path)), parse(content))
    again = (report / "index.html").read_text()
    start = "What was wished for"
    assert again.partition(start)[2][:4000] == page.partition(start)[2][:4000]


def test_the_command_line_has_a_line_for_each_wish(steered, farfield):
    told = farfield("status", steered.path).out
    assert "mean: wished 0.5 +- 0.00984, reached" in told
    assert "spectrum's slope: wished -3 +- 0.3, reached" in told


def test_a_run_without_wishes_says_nothing_of_them(unbroken):
    assert not (unbroken / "wishes.json").exists()
    assert "steer" not in read_json(unbroken / "run.json")["identity_record"]["method"]
    assert "wished for" not in (unbroken / "report" / "index.html").read_text()


def test_other_wishes_are_another_run(steered, content):
    other = parse({**content, "method": {**content["method"], "steer": None}})
    with pytest.raises(IdentityRefused, match=r"method\.steer"):
        plan_run(other, str(steered.path))
    settings = parse(content)
    steer = replace(settings.method.steer, calls=9)
    with pytest.raises(IdentityRefused, match=r"method\.steer\.calls: 7 -> 9"):
        plan_run(
            settings.model_copy(update={"method": replace(settings.method, steer=steer)}),
            str(steered.path),
        )


def test_a_function_is_found_beside_the_run_and_its_file_is_held_to(content, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "beside_the_run.py"
    own.write_text("def total(maps):\n    return maps.sum(axis=(1, 2, 3))\n")
    steer = {"reward": "beside_the_run:total", "calls": 5}
    changed = {**content, "method": {**content["method"], "steer": steer}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(changed))
    found = run(load_settings(tmp_path / "own.yaml"), tmp_path / "run", progress=False)
    assert found.status()["wishes"]["reached"][0]["title"] == "total"
    own.write_text(own.read_text() + "# changed\n")
    sys.modules.pop("beside_the_run")
    with pytest.raises(IdentityRefused, match=r"method\.steer\.source"):
        run(load_settings(tmp_path / "own.yaml"), tmp_path / "run", progress=False)
