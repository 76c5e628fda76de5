"""Statistics that workers store say what the maps say; runs without them are measured again."""

import shutil

import numpy as np
import pytest
import torch

from flows.report.inspection import verify_run
from flows.runs.extension import stored_settings
from flows.runs.lifecycle import run_line
from flows.runs.stages import perform
from ood_core.errors import ShardCorrupt
from ood_core.evaluation import features as measures
from ood_core.evaluation.evaluate import compare, validate
from ood_core.evaluation.features import families
from ood_core.evaluation.streaming import joined
from ood_core.store.run import RunStore
from ood_core.store.statistics import lay_ruler, read_statistics
from ood_core.store.targets import load_targets
from tests.contracts.store import assert_equal

ROOT = 5
ROUNDING = 2e-6
"""Rows are float32 (6e-8) and scattering sums some hundred of them in float32, whose order depends
on the batch: a few tens of roundings."""


def without_validation(name, stage, run, settings):
    return "" if name == "validate" else perform(name, stage, run, settings)


def stored(root):
    run = RunStore(root)
    targets = load_targets(run)
    return run, targets, lay_ruler(targets, stored_settings(run).targets.symmetries)


def online(root):
    run, targets, ruler = stored(root)
    return joined(list(read_statistics(run, ruler, targets)))


def maps(root):
    run, targets, _ = stored(root)
    return torch.from_numpy(targets.transform.forward(run.table("generate").read("maps")))


def scores(report):
    return {s.name: (s.value, s.real, s.low, s.high, s.whole or 0.0) for s in report.scores}


def assert_same_scores(one, other):
    # Scores are smooth in rows whose rounding whitening magnifies by at most 1 / FLAT = 1e3;
    # the classifier's accuracy is a count, which such a change may move by one map at most.
    assert scores(one).keys() == scores(other).keys()
    for name, values in scores(one).items():
        assert values == pytest.approx(scores(other)[name], rel=1e3 * ROUNDING, abs=1e-6), name
    assert [p.sample for p in one.closest] == [p.sample for p in other.closest]
    assert (one.worst, one.copies, one.count) == (other.worst, other.copies, other.count)
    for a, b in zip(one.judgement.families, other.judgement.families, strict=True):
        assert a.distance == pytest.approx(b.distance, rel=1e-3, abs=1e-4)


def test_stored_rows_are_those_of_the_stored_maps(unbroken):
    _, _, ruler = stored(unbroken)
    found, wanted = online(unbroken), ruler.measure(maps(unbroken))
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        torch.testing.assert_close(found[name], rows, rtol=ROUNDING, atol=ROUNDING)


def test_scores_of_rows_are_those_of_maps_however_they_are_cut(unbroken):
    run, targets, ruler = stored(unbroken)
    offline = validate(maps(unbroken), targets.fit, targets.held_out, ruler.symmetries, ROOT)
    for blocks in (
        list(read_statistics(run, ruler, targets)),
        [ruler.measure(part) for part in maps(unbroken).split([1, 6, 3])],
    ):
        assert_same_scores(compare(ruler, blocks, 10, ROOT), offline)


def test_scores_need_no_maps(finished):
    before = online(finished)
    shutil.rmtree(finished / "dataset.zarr" / "maps" / "c")
    assert all(rows.equal(before[name]) for name, rows in online(finished).items())


def test_another_definition_is_measured_again(finished, monkeypatch):
    before = online(finished)
    run = RunStore(finished)
    damage(run, "statistics", 1.0)  # would be refused, were it read
    monkeypatch.setattr("ood_core.store.statistics.DEFINITION", 2)
    assert all(rows.equal(before[name]) for name, rows in online(finished).items())


def test_rows_of_fewer_families_are_measured_again(finished, monkeypatch):
    def more(of):
        return [*families(of), ("means", lambda maps: maps.mean((-2, -1)))]

    before, run = online(finished), RunStore(finished)
    damage(run, "statistics", 1.0)  # would be refused, were it read
    monkeypatch.setattr(measures, "families", more)
    found = online(finished)
    assert found["means"].shape == (10, 1)
    assert all(rows.equal(found[name]) for name, rows in before.items())


def damage(run, name, value):
    shard = run.plan("generate")[1]
    rows = run.statistics.rows(shard.start, shard.stop)
    run.statistics.write(shard, {**rows, name: rows[name] + np.asarray(value, rows[name].dtype)})


def test_rows_that_changed_on_disk_are_refused_found_and_renewed(finished, unbroken, tiny):
    run = RunStore(finished)
    damage(run, "pixels", 1)
    with pytest.raises(ShardCorrupt, match="rows 4:8, are not those that were measured"):
        online(finished)
    assert verify_run(run)["damaged"] == ["generate/00001"]
    run_line(tiny(), str(finished), call=without_validation)
    assert_equal(finished, unbroken)


def test_a_table_that_is_gone_is_found_and_renewed(finished, unbroken, tiny):
    shutil.rmtree(finished / "statistics.zarr")
    assert len(verify_run(RunStore(finished))["damaged"]) == 3
    run_line(tiny(), str(finished), call=without_validation)
    assert_equal(finished, unbroken)


def test_maps_are_vouched_for_apart_from_statistics(unbroken):
    """Digests of maps are those of versions that stored no statistics."""
    run = RunStore(unbroken)
    for receipt in run.receipts("generate").all(run.plan("generate")):
        assert receipt.digest == run.table("generate").digest(receipt) != receipt.statistics
