"""Crashes at every operation that changes the disk: the same run, every time.

Real kills are in `test_kills.py`. `farfield bench crash_points` resumes from every moment;
here it is every one of them that is looked at, and some that are resumed from.
"""

import json
import shutil
from collections import Counter

import pytest
import xarray as xr
import zarr

from actors import workers
from actors.workers import ShardWorker
from flows.runs import planning, stages
from flows.runs.lifecycle import extend_run, make_run, stored_settings, with_samples
from ood_core.errors import ShardCorrupt
from ood_core.store.arrays import ShardWriter, rows_digest
from ood_core.store.files import PARTIAL, write_json
from ood_core.store.ledger import Receipt
from ood_core.store.run import RunStore
from tests.contracts.store import answers, assert_equal, assert_honest, assert_kept, marks
from tests.faults.crash_points import (
    distinct,
    drive,
    lay_out,
    once,
    record,
    resume,
    survive,
    torn_lease,
    unexplained,
    with_torn,
)
from tests.faults.drivers import without_validation

STAGES = ("planning", "calibrate", "invert", "fit", "generate", "validate")
STRIDE = 16
"""One in so many moments of each stage is resumed from, besides those named by a test."""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, small):
    """The clean run and its disk before each operation."""
    clean = tmp_path_factory.mktemp("crashes") / "clean"
    return clean, record(clean, drive, small)


@pytest.fixture
def scored_once(monkeypatch):
    """Scores are computed once for all resumes of one set."""
    monkeypatch.setattr(stages, "evaluate_features", once(stages.evaluate_features))


def test_every_change_of_the_disk_is_seen(recorded):
    """Nothing appears that no operation names, and all kinds of operations and stages are there."""
    _, moments = recorded
    assert unexplained(moments) == set()
    kinds = Counter(moment.operation for moment in moments)
    assert {"open", "os.rename", "os.mkdir", "os.remove", "os.link"} <= kinds.keys()
    assert len(moments) > 300
    assert {moment.stage for moment in moments} == set(STAGES)
    names = {path.rpartition("/")[2] for moment in moments for path in moment.paths}
    for file in ("run.json", "plan.json", "00001.json", "gate.json", "index.html", "00001.free"):
        assert file in names


@pytest.mark.parametrize("power", [True, False])
def test_at_every_moment_what_is_marked_done_is_done(recorded, tmp_path, power):
    """Whether a process dies, or the machine with all that was not flushed."""
    moments = with_torn(recorded[1]) if power else [moment.powerless for moment in recorded[1]]
    for number, moment in enumerate(distinct(moments, "lasting")):
        root = lay_out(moment.tree, tmp_path / str(number))
        assert_honest(root)
        if (root / "gate.json").exists():
            assert moment.stage == "validate"
            assert (root / "report" / "report.json").exists()
        shutil.rmtree(root)


@pytest.mark.parametrize("stage", STAGES)
def test_from_every_moment_the_run_ends_as_the_unbroken_one(
    recorded, small, tmp_path, scored_once, stage
):
    clean, moments = recorded
    found = [m for m in distinct(with_torn(moments), "lasting") if m.stage == stage]
    for number, moment in enumerate(found[::STRIDE]):
        root = tmp_path / str(number)
        survive(moment, root, lambda root: resume(root, small, stage == "validate"), clean)


@pytest.mark.parametrize("stage", ["calibrate", "generate"])
def test_after_a_power_cut_the_run_ends_as_the_unbroken_one(recorded, small, tmp_path, stage):
    clean, moments = recorded
    last = [moment.powerless for moment in moments if moment.stage == stage and moment.held][-1]
    survive(last, tmp_path / "run", lambda root: resume(root, small, validate=False), clean)


def test_a_torn_lease_is_waited_for_and_then_replaced(recorded, small, tmp_path):
    clean, moments = recorded
    torn = next(moment for moment in with_torn(moments) if torn_lease(moment))
    survive(torn, tmp_path / "run", lambda root: resume(root, small, False), clean)


def test_who_does_not_sweep_is_found_out(recorded, small, tmp_path, monkeypatch):
    """Negative control: without sweeping, litter stays."""
    clean, moments = recorded
    littered = next(m for m in moments if m.stage == "generate" and PARTIAL in "".join(m.tree))
    monkeypatch.setattr(planning, "sweep", lambda root: 0)
    root = lay_out(littered.tree, tmp_path / "run")
    resume(root, small, validate=False)
    with pytest.raises(AssertionError):
        assert_equal(root, clean)
    assert [path for path in root.rglob("*") if PARTIAL in path.name] != []


def vouch_first(self, shard, rows, statistics, nfe, parts, at_once):
    """The order that must never be: the receipt before the bytes."""
    stop = shard.start + len(next(iter(rows.values())))
    digests = rows_digest(rows), "" if statistics is None else rows_digest(statistics)
    receipt = Receipt(
        self.stage, shard.index, shard.start, stop, digests[0], nfe, 0.0, "", digests[1]
    )
    self.store.ledger(self.stage).write(receipt)
    if statistics is not None:
        self.store.statistics.write(shard, statistics)
    self.store.table(self.stage).write(shard, rows)
    self.turns.stored()
    return receipt


def rashly(root, say, settings):
    ShardWorker._store = vouch_first
    make_run(settings, str(root), without_validation)


def unflushed(root, say, settings):
    workers.persist_shard = lambda table, shard: None
    make_run(settings, str(root), without_validation)


@pytest.mark.parametrize(("act", "power"), [(rashly, True), (unflushed, True), (unflushed, False)])
def test_who_vouches_too_early_is_found_out(ready, tiny, tmp_path, act, power):
    """Negative controls: a worker that writes the receipt first, and one that does not flush.

    The second one is found out by a power cut alone.
    """
    dishonest = 0
    for number, moment in enumerate(record(ready, act, tiny())):
        root = lay_out((moment if power else moment.powerless).tree, tmp_path / str(number))
        try:
            assert_honest(root)
        except (AssertionError, ShardCorrupt):
            dishonest += 1
        shutil.rmtree(root)
    assert (dishonest > 0) == (act is rashly or not power)


def extend(root, samples):
    run = RunStore(root)
    settings = with_samples(stored_settings(run), samples)
    return extend_run(run, settings, call=without_validation)


def lengthen(root, say, samples):
    say("extend")
    extend(root, samples)


def vouched(root):
    return {name: content for name, (_, content) in marks(root).items()}


def test_from_every_moment_of_a_growth_it_grows_to_the_unbroken_run(tmp_path, recorded, small):
    """From 6 samples (shards of 4, so that the last one is short) to 14."""
    clean, fresh = tmp_path / "clean", tmp_path / "fresh"
    shutil.copytree(recorded[0], clean)
    gate = {"min_held_out": 30}
    write_json(
        clean / "gate.json", {"outcome": "complete", "reasons": [], "gate": gate, "samples": 6}
    )
    longer = with_samples(small, 14)
    make_run(longer, str(fresh), call=without_validation)
    kept, seen = vouched(clean), set()
    moments = distinct(with_torn(record(clean, lengthen, 14)), "lasting")
    assert len(moments) > 30
    for number, moment in enumerate(moments):
        root = lay_out(moment.tree, tmp_path / str(number))
        run = RunStore(root)
        planned = run.plan("generate").rows
        with xr.open_zarr(root / "dataset.zarr") as data:
            seen.add((planned, data.sizes["sample"], run.state))
        assert_honest(root)
        assert kept.items() <= vouched(root).items()
        before = marks(root)
        if number % STRIDE == 0 and not torn_lease(moment):
            if planned == 6:
                extend(root, 14)
            else:  # the plain resume goes on as well
                resume(root, longer, False)
            assert_kept(before, root)
            assert_equal(root, fresh)
        shutil.rmtree(root)
    # the plan first, then what readers see; never a set that looks whole and is not
    assert seen == {(6, 6, "complete"), (14, 6, "incomplete"), (14, 14, "incomplete")}


def test_a_growth_is_finished_by_the_same_command(tmp_path, recorded):
    """A crash between the plan and the tables, and one between two tables."""
    for tables in (0, 2):
        root = tmp_path / str(tables)
        shutil.copytree(recorded[0], root)
        plan = json.loads((root / "plan.json").read_text())
        plan["generate"]["rows"] = 14
        write_json(root / "plan.json", plan)
        for name in ("parents", "maps")[:tables]:
            array = zarr.open_array(root / "dataset.zarr" / name)
            array.resize((14, *array.shape[1:]))
        extend(root, 14)
        with xr.open_zarr(root / "dataset.zarr") as data:
            assert {variable.shape[0] for variable in data.variables.values()} == {14}
        assert RunStore(root).ledger("generate").missing(RunStore(root).plan("generate")) == []


def test_a_receipt_lost_after_the_write_costs_one_shard(finished, unbroken, tiny):
    (finished / "receipts" / "generate" / "00001.json").unlink()
    before = marks(finished)
    make_run(tiny(), str(finished), call=without_validation)
    assert_kept(before, finished)
    assert_equal(finished, unbroken)


def test_a_torn_receipt_costs_one_shard(finished, unbroken, tiny):
    torn = finished / "receipts" / "invert" / "00000.json"
    torn.write_bytes(torn.read_bytes()[:50])
    make_run(tiny(), str(finished), call=without_validation)
    assert_equal(finished, unbroken)


@pytest.mark.parametrize("error", [RuntimeError, OSError, MemoryError])
def test_passing_errors_are_tried_again(ready, unbroken, tiny, monkeypatch, error):
    """The first write of a shard fails, the second one works."""
    write, calls = ShardWriter.write, []

    def flaky(self, shard, rows):
        if self.path.name != "dataset.zarr":
            return write(self, shard, rows)
        calls.append(shard.index)
        if len(calls) == 1:
            raise error("for once")
        return write(self, shard, rows)

    monkeypatch.setattr(ShardWriter, "write", flaky)
    make_run(tiny(), str(ready), call=without_validation)
    assert calls == [0, 1, 2, 0]
    assert answers(ready) == answers(unbroken)
