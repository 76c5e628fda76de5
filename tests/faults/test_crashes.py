"""Crashes at every store operation: the same run, every time. Real kills are in `test_kills.py`.

A process that dies leaves the disk as it is at that moment. So one clean run is copied just before
each of its renames, the only operations by which anything comes to exist, and each copy is resumed.
"""

import json
import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from threading import RLock

import pytest
import xarray as xr
import zarr

from flows.extension import extend_run, stored_settings, with_samples
from flows.stages import perform
from flows.synthesise import run_line
from ood_core.store.files import write_json
from ood_core.store.run import RunStore
from tests.contracts.store import (
    answers,
    assert_equal,
    assert_honest,
    assert_kept,
    dead_driver,
    marks,
)


def without_validation(name, stage, run, settings):
    return "" if name == "validate" else perform(name, stage, run, settings)


@pytest.fixture(scope="module")
def small(tiny):
    """Two noise levels, one batch of targets, two shards of samples."""
    return tiny(
        method={"steps": 1, "steering": {"steps": 1, "neighbours": 1}},
        generation={"samples": 6, "shard_size": 4},
    )


def copy_if_there(source, target):
    """Zarr links some files into place and removes its own in another thread meanwhile."""
    with suppress(FileNotFoundError):
        shutil.copy2(source, target)


def before_each_rename(clean, place, act):
    """Copies of a folder as it was before each rename that `act` does in it."""
    copies, rename = [], os.replace
    one_by_one = RLock()  # Zarr writes from several threads

    def recorded(source, target, **rest):
        with one_by_one:
            return copied(source, target, **rest)

    def copied(source, target, **rest):
        if Path(target).is_relative_to(clean) and Path(target).parent.name != "lease":
            copies.append(place / f"{len(copies):03d}")
            but_lease = shutil.ignore_patterns("lease")
            shutil.copytree(clean, copies[-1], ignore=but_lease, copy_function=copy_if_there)
            dead_driver(copies[-1])
        return rename(source, target, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "replace", recorded)
        act()
    return copies


@pytest.fixture(scope="module")
def crashes(tmp_path_factory, small):
    """The clean run, and its folder as it was before each rename."""
    place = tmp_path_factory.mktemp("crashes")
    clean = place / "clean"
    copies = before_each_rename(
        clean, place, lambda: run_line(small, str(clean), call=without_validation)
    )
    litter = (path.name for copy in copies for path in copy.rglob("*.partial"))
    partial = {re.sub(r"\.[0-9a-f]{32}", "", name) for name in litter}
    done = {len(list(copy.glob("receipts/generate/*.json"))) for copy in copies}
    return clean, copies, (partial, done)


def test_every_crash_resumes_to_the_unbroken_run(crashes, small):
    clean, copies, _ = crashes
    assert len(copies) > 40
    planned = 0
    for copy in copies:
        assert_honest(copy)
        before, existed = marks(copy), RunStore(copy).exists
        planned += existed
        run_line(small, str(copy), call=without_validation)
        if existed:
            assert_kept(before, copy)
        assert_equal(copy, clean)
    assert 0 < planned < len(copies)


def test_the_crashes_cover_every_kind_of_write(crashes):
    partial, done = crashes[2]
    assert {"run.json.partial", "plan.json.partial", "prior.zarr.partial"} <= partial
    assert "00001.json.partial" in partial
    assert done == {0, 1, 2}


def extend(root, samples):
    run = RunStore(root)
    settings = with_samples(stored_settings(run), samples)
    return extend_run(run, settings, call=without_validation)


def test_every_crash_of_a_growth_grows_to_the_unbroken_run(tmp_path, crashes, small):
    """From 6 samples (shards of 4, so that the last one is short) to 14."""
    old, clean, fresh = crashes[0], tmp_path / "clean", tmp_path / "fresh"
    shutil.copytree(old, clean)
    gate = {"min_held_out": 30}
    write_json(clean / "verdict.json", {"state": "complete", "reasons": [], "gate": gate})
    longer = with_samples(small, 14)
    run_line(longer, str(fresh), call=without_validation)
    kept, seen = marks(clean), set()
    copies = before_each_rename(clean, tmp_path, lambda: extend(clean, 14))
    assert len(copies) > 15
    for copy in copies:
        run = RunStore(copy)
        dead_driver(copy)
        planned = run.plan("generate").rows
        with xr.open_zarr(copy / "dataset.zarr") as data:
            shown = data.sizes["sample"]
        seen.add((planned, shown, run.state))
        assert_honest(copy)
        assert_kept(kept, copy)
        before = marks(copy)
        if planned == 6:
            extend(copy, 14)
        else:  # the plain resume goes on as well
            run_line(longer, str(copy), call=without_validation)
        assert_kept(before, copy)
        assert_equal(copy, fresh)
    # the plan first, then what readers see; never a set that looks whole and is not
    assert seen == {(6, 6, "complete"), (14, 6, "incomplete"), (14, 14, "incomplete")}


def test_a_growth_is_finished_by_the_same_command(tmp_path, crashes):
    """A crash between the plan and the tables, and one between two tables."""
    for tables in (0, 2):
        root = tmp_path / str(tables)
        shutil.copytree(crashes[0], root)
        plan = json.loads((root / "plan.json").read_text())
        plan["generate"]["rows"] = 14
        write_json(root / "plan.json", plan)
        for name in ("attempts", "maps")[:tables]:
            array = zarr.open_array(root / "dataset.zarr" / name)
            array.resize((14, *array.shape[1:]))
        extend(root, 14)
        with xr.open_zarr(root / "dataset.zarr") as data:
            assert {variable.shape[0] for variable in data.variables.values()} == {14}
        assert RunStore(root).receipts("generate").missing(RunStore(root).plan("generate")) == []


def test_a_receipt_lost_after_the_write_costs_one_shard(finished, unbroken, tiny):
    (finished / "receipts" / "generate" / "00001.json").unlink()
    before = marks(finished)
    run_line(tiny(), str(finished), call=without_validation)
    assert_kept(before, finished)
    assert_equal(finished, unbroken)


def test_a_torn_receipt_costs_one_shard(finished, unbroken, tiny):
    torn = finished / "receipts" / "invert" / "00000.json"
    torn.write_bytes(torn.read_bytes()[:50])
    run_line(tiny(), str(finished), call=without_validation)
    assert_equal(finished, unbroken)


@pytest.mark.parametrize("error", [RuntimeError, OSError, MemoryError])
def test_passing_errors_are_tried_again(ready, unbroken, tiny, monkeypatch, error):
    """The first write of a shard fails, the second one works."""
    from ood_core.store.arrays import Table

    write, calls = Table.write, []

    def flaky(self, shard, rows):
        if self.path.name != "dataset.zarr":
            return write(self, shard, rows)
        calls.append(shard.index)
        if len(calls) == 1:
            raise error("for once")
        return write(self, shard, rows)

    monkeypatch.setattr(Table, "write", flaky)
    run_line(tiny(), str(ready), call=without_validation)
    assert calls == [0, 1, 2, 0]
    assert answers(ready) == answers(unbroken)
