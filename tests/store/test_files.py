"""Atomic writes, shard plans, receipts."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ood_core.store.files import PARTIAL, read_json, sweep, write_atomic, write_json
from ood_core.store.ledger import Ledger, Receipt
from ood_core.store.plan import Shard, ShardPlan

PLAN = ShardPlan(10, 4)


def receipt(shard: Shard) -> Receipt:
    return Receipt("generate", shard.index, shard.start, shard.stop, "ab" * 32, 7, 0.5, "here:1")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path, "generate")


def test_readers_see_the_old_file_or_the_new_one(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_atomic(path, b"old")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_two_writers_can_meet_at_one_file(tmp_path, monkeypatch):
    """One writes in the middle of the other's work, as two drivers of one run may."""
    path, rename = tmp_path / "file", os.replace

    def meet(source, target):
        monkeypatch.setattr(os, "replace", rename)
        write_atomic(path, b"second")
        assert path.read_bytes() == b"second"
        rename(source, target)

    monkeypatch.setattr(os, "replace", meet)
    write_atomic(path, b"first")
    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_bytes_are_flushed_to_disk_before_the_rename(tmp_path, monkeypatch):
    order: list[str] = []
    flush, rename = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (order.append("flush"), flush(fd))[1])
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("rename"), rename(a, b))[1])
    write_atomic(tmp_path / "file", b"x")
    assert order == ["flush", "rename"]


def test_numbers_that_json_lacks_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_sweep_removes_litter_and_nothing_else(tmp_path):
    write_json(tmp_path / "a" / "kept.json", {"x": 1})
    (tmp_path / "a" / f"torn.json{PARTIAL}").write_text("{")
    folder = tmp_path / f"prior.zarr{PARTIAL}"
    folder.mkdir()
    (folder / "zarr.json").write_text("{}")
    assert sweep(tmp_path) >= 2
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "kept.json"]


@given(st.integers(0, 500), st.integers(1, 80))
@settings(deadline=None, derandomize=True)
def test_shards_tile_all_rows_once(rows, shard_rows):
    plan = ShardPlan(rows, shard_rows)
    covered = [row for shard in plan for row in range(shard.start, shard.stop)]
    assert covered == list(range(rows))
    assert [shard.index for shard in plan] == list(range(len(plan)))
    assert all(0 < len(shard) <= shard.capacity == shard_rows for shard in plan)
    assert all(len(shard) == shard_rows for shard in list(plan)[:-1])


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 40))
@settings(deadline=None, derandomize=True)
def test_a_longer_plan_keeps_all_full_shards(rows, more, shard_rows):
    short, long = ShardPlan(rows, shard_rows), ShardPlan(rows + more, shard_rows)
    full = rows // shard_rows
    assert list(short)[:full] == list(long)[:full]


@pytest.mark.parametrize(("rows", "shard_rows"), [(-1, 4), (4, 0)])
def test_impossible_plans_cannot_be_built(rows, shard_rows):
    with pytest.raises(ValueError, match="expected rows >= 0"):
        ShardPlan(rows, shard_rows)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_shard_outside_the_plan_is_refused(index):
    with pytest.raises(IndexError, match="of 3"):
        PLAN[index]


def test_receipts_come_back_as_written(ledger):
    assert ledger.missing(PLAN) == list(PLAN)
    for shard in PLAN:
        ledger.write(receipt(shard))
    assert ledger.missing(PLAN) == []
    assert ledger.all(PLAN) == [receipt(shard) for shard in PLAN]


def test_a_revoked_receipt_is_missing(ledger):
    for shard in PLAN:
        ledger.write(receipt(shard))
    ledger.revoke(PLAN[1])
    ledger.revoke(PLAN[1])
    assert ledger.missing(PLAN) == [PLAN[1]]


@pytest.mark.parametrize("cut", [0, 1, 20, 100])
def test_a_torn_receipt_is_no_receipt(ledger, cut):
    ledger.write(receipt(PLAN[0]))
    path = ledger.root / "receipts" / "generate" / "00000.json"
    path.write_bytes(path.read_bytes()[:cut])
    assert ledger.read(PLAN[0]) is None


@pytest.mark.parametrize(
    "content", ["[]", "null", "3", "{}", '{"stage": "generate"}', '"text"', "\udcff"]
)
def test_other_json_is_no_receipt(ledger, content):
    path = ledger.root / "receipts" / "generate" / "00000.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert ledger.read(PLAN[0]) is None


def test_a_receipt_of_other_rows_is_no_receipt(ledger):
    ledger.write(receipt(ShardPlan(10, 3)[0]))
    assert ledger.read(PLAN[0]) is None


def test_a_receipt_with_unknown_fields_is_no_receipt(ledger):
    ledger.write(receipt(PLAN[0]))
    path = ledger.root / "receipts" / "generate" / "00000.json"
    path.write_text(json.dumps({**read_json(path), "extra": 1}))
    assert ledger.read(PLAN[0]) is None


def test_stages_keep_their_receipts_apart(ledger):
    ledger.write(receipt(PLAN[0]))
    assert Ledger(ledger.root, "invert").missing(PLAN) == list(PLAN)
