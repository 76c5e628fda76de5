"""Receipts in segments: fewer to read, and never another answer."""

import os
import time

import pytest

from ood_core.store import ledger as ledgers
from ood_core.store.files import names
from ood_core.store.ledger import Ledger, Receipt
from ood_core.store.place import place_at
from ood_core.store.plan import ShardPlan

PLAN = ShardPlan(20, 2)  # two segments of four shards, and two shards more


def receipt(index, digest="first"):
    return Receipt("generate", index, 2 * index, 2 * index + 2, digest, 1, 0.5, "here:1")


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setattr(ledgers, "SEGMENT", 4)
    found = Ledger(place_at(str(tmp_path)), "generate")
    for index in range(len(PLAN)):
        found.write(receipt(index))
    return found


def singles(ledger, monkeypatch):
    """Receipts that are read one by one."""
    seen, read = [], ledgers.read_json

    def counted(path):
        seen.append(str(path))
        return read(path)

    monkeypatch.setattr(ledgers, "read_json", counted)
    found = ledger.all(PLAN)
    monkeypatch.setattr(ledgers, "read_json", read)
    return found, [path for path in seen if "/receipts/" in path]


def test_a_segment_saves_reading_its_receipts(ledger, monkeypatch):
    before, read = singles(ledger, monkeypatch)
    assert len(read) == 10
    ledger.seal(PLAN)
    after, read = singles(ledger, monkeypatch)
    assert after == before == [receipt(index) for index in range(10)]
    assert len(read) == 2


def test_a_segment_waits_for_all_of_its_receipts(ledger, tmp_path):
    ledger.revoke(PLAN[1])
    ledger.seal(PLAN)
    assert names(tmp_path / "segments" / "generate") == ["00001.json"]


def test_a_receipt_that_was_withdrawn_or_renewed_is_not_read_from_its_segment(ledger, monkeypatch):
    ledger.seal(PLAN)
    ledger.revoke(PLAN[5])
    assert [shard.index for shard in ledger.missing(PLAN)] == [5]
    ledger.write(receipt(5, "second"))
    assert ledger.all(PLAN)[5].digest == "second"
    ledger.seal(PLAN)
    found, read = singles(ledger, monkeypatch)
    assert (found[5].digest, len(read)) == ("second", 2)


def test_a_receipt_as_old_as_its_segment_is_read_itself(ledger, tmp_path, monkeypatch):
    """Clocks of object stores count whole seconds."""
    ledger.seal(PLAN)
    now = time.time()
    for path in tmp_path.rglob("*.json"):
        os.utime(path, (now, now))
    assert len(singles(ledger, monkeypatch)[1]) == 10


def test_a_torn_segment_is_left_aside(ledger, tmp_path):
    ledger.seal(PLAN)
    (tmp_path / "segments" / "generate" / "00000.json").write_text('{"receipts": [{"sta')
    assert ledger.missing(PLAN) == []


def test_a_grown_plan_keeps_its_segments(ledger, monkeypatch):
    ledger.seal(PLAN)
    assert [shard.index for shard in ledger.missing(ShardPlan(30, 2))] == [10, 11, 12, 13, 14]
