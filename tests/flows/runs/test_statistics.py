"""Statistics that workers store say what the maps say; runs without them are measured again."""

import shutil

import numpy as np
import pytest
import torch

from flows.report.inspection import verify_run
from flows.runs.lifecycle import make_run
from flows.runs.stages import perform
from ood_core.errors import ShardCorrupt
from ood_core.evaluation.evaluate import evaluate_features, evaluate_maps
from ood_core.evaluation.features import FAMILIES, Family, concatenated
from ood_core.numerics.random import Root
from ood_core.store.run import RunStore
from ood_core.store.statistics import feature_extractor, read_statistics
from ood_core.store.targets import load_targets
from tests.contracts.store import assert_equal

ROOT = Root(5)
ROUNDING = 2e-6
"""Rows are float32 (6e-8) and scattering sums some hundred of them in float32, whose order depends
on the batch: a few tens of roundings."""


def without_validation(name, stage, run, settings):
    return "" if name == "validate" else perform(name, stage, run, settings)


def stored(root):
    run = RunStore(root)
    targets = load_targets(run)
    return run, targets, feature_extractor(targets)


def online(root):
    run, targets, extractor = stored(root)
    return concatenated(list(read_statistics(run, extractor, targets)))


def maps(root):
    run, targets, _ = stored(root)
    return targets.ranged(run.table("generate").read("maps"))


def scores(report):
    return {
        name: (s.value, s.real, s.low, s.high, s.whole or 0.0) for name, s in report.scores.items()
    }


def assert_same_scores(one, other):
    # Scores are smooth in rows whose rounding whitening magnifies by at most 1 / FLAT = 1e3;
    # the classifier's accuracy is a count, which such a change may move by one map at most.
    assert scores(one).keys() == scores(other).keys()
    for name, values in scores(one).items():
        assert values == pytest.approx(scores(other)[name], rel=1e3 * ROUNDING, abs=1e-6), name
    assert [p.sample for p in one.closest] == [p.sample for p in other.closest]
    assert (one.least_typical, one.near_copies) == (other.least_typical, other.near_copies)
    assert one.count == other.count
    for a, b in zip(one.tests.families, other.tests.families, strict=True):
        assert a.distance == pytest.approx(b.distance, rel=1e-3, abs=1e-4)


def test_stored_rows_are_those_of_the_stored_maps(unbroken):
    _, _, extractor = stored(unbroken)
    found, wanted = online(unbroken), extractor.extract(maps(unbroken))
    assert found.keys() == wanted.keys()
    for name, rows in wanted.items():
        torch.testing.assert_close(found[name], rows, rtol=ROUNDING, atol=ROUNDING)


def test_scores_of_rows_are_those_of_maps_however_they_are_cut(unbroken):
    run, targets, extractor = stored(unbroken)
    offline = evaluate_maps(
        maps(unbroken), targets.fit_ranged, targets.held_out_ranged, extractor.symmetries, ROOT
    )
    for blocks in (
        list(read_statistics(run, extractor, targets)),
        [extractor.extract(part) for part in maps(unbroken).split([1, 6, 3])],
    ):
        assert_same_scores(evaluate_features(extractor, blocks, 10, ROOT), offline)


def test_scores_need_no_maps(finished):
    before = online(finished)
    shutil.rmtree(finished / "dataset.zarr" / "maps" / "c")
    assert all(rows.equal(before[name]) for name, rows in online(finished).items())


def test_another_definition_is_measured_again(finished, monkeypatch):
    before = online(finished)
    run = RunStore(finished)
    damage(run, "statistics", 1.0)  # would be refused, were it read
    monkeypatch.setattr("ood_core.store.statistics.DEFINITION", 99)
    assert all(rows.equal(before[name]) for name, rows in online(finished).items())


def test_rows_of_fewer_families_are_measured_again(finished, monkeypatch):
    means = Family("means", "means", lambda maps: maps.mean((-2, -1)))
    before, run = online(finished), RunStore(finished)
    damage(run, "statistics", 1.0)  # would be refused, were it read
    monkeypatch.setitem(FAMILIES, "means", means)
    found = online(finished)
    assert found["means"].shape == (10, 1)
    assert all(rows.equal(found[name]) for name, rows in before.items())


def damage(run, name, value):
    shard = run.plan("generate")[1]
    rows = run.statistics.rows(shard.start, shard.stop)
    run.statistics.write(shard, {**rows, name: rows[name] + np.asarray(value, rows[name].dtype)})


def test_rows_that_changed_on_disk_are_refused_found_and_renewed(finished, unbroken, tiny):
    run = RunStore(finished)
    damage(run, "statistics", 1)
    with pytest.raises(ShardCorrupt, match="rows 4:8, are not those that were measured"):
        online(finished)
    assert verify_run(run)["damaged"] == ["generate/00001"]
    make_run(tiny(), str(finished), call=without_validation)
    assert_equal(finished, unbroken)


def test_a_table_that_is_gone_is_found_and_renewed(finished, unbroken, tiny):
    shutil.rmtree(finished / "statistics.zarr")
    assert len(verify_run(RunStore(finished))["damaged"]) == 3
    make_run(tiny(), str(finished), call=without_validation)
    assert_equal(finished, unbroken)


def test_maps_are_vouched_for_apart_from_statistics(unbroken):
    """Digests of maps are those of versions that stored no statistics."""
    run = RunStore(unbroken)
    for receipt in run.ledger("generate").all(run.plan("generate")):
        assert receipt.digest == run.table("generate").digest(receipt) != receipt.statistics
