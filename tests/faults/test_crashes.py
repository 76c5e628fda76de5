"""Crashes at every store operation: the same run, every time. Real kills are in `test_kills.py`.

A process that dies leaves the disk as it is at that moment. So one clean run is copied just before
each of its renames, the only operations by which anything comes to exist, and each copy is resumed.
"""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from threading import RLock

import pytest

from flows.stages import perform
from flows.synthesise import run_line
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


@pytest.fixture(scope="module")
def crashes(tmp_path_factory, small):
    """The clean run, and its folder as it was before each rename."""
    place = tmp_path_factory.mktemp("crashes")
    clean, copies, rename = place / "clean", [], os.replace
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
        run_line(small, str(clean), call=without_validation)
    partial = {path.name for copy in copies for path in copy.rglob("*") if "partial" in path.name}
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
        calls.append(shard.index)
        if len(calls) == 1:
            raise error("for once")
        return write(self, shard, rows)

    monkeypatch.setattr(Table, "write", flaky)
    run_line(tiny(), str(ready), call=without_validation)
    assert calls == [0, 1, 2, 0]
    assert answers(ready) == answers(unbroken)
